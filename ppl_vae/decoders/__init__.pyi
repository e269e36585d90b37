from ._log_prob import log_prob_of as log_prob_of
from ._means import DecoderOfMeans as DecoderOfMeans
from ._means import decoder_model as decoder_model
from ._means import find_latent as find_latent
from ._named import NamedDecoder as NamedDecoder
from ._named import load_decoder as load_decoder
from ._noise import NoiseChoice as NoiseChoice
from ._noise import choose_noise as choose_noise
