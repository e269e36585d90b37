"""Log p(x) of any decoder, without an encoder: its output read as p(x|z), its noise chosen."""

from ppl_vae.decoders._log_prob import log_prob_of
from ppl_vae.decoders._means import DecoderOfMeans, decoder_model, find_latent
from ppl_vae.decoders._named import NamedDecoder, load_decoder
from ppl_vae.decoders._noise import NoiseChoice, choose_noise

__all__ = [
    "DecoderOfMeans",
    "NamedDecoder",
    "NoiseChoice",
    "choose_noise",
    "decoder_model",
    "find_latent",
    "load_decoder",
    "log_prob_of",
]
