"""What a trained model and guide are like."""
