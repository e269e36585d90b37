"""``python -m ppl_vae``: the command line."""

from ppl_vae.cli import main

if __name__ == "__main__":
    main()
