"""What the demo project sets otherwise than the library; standard library only."""

from rlhf_core.config import SamplingConfig

# At temperature 1 a model of this size strays into nonsense within a sentence; runs that improve the demo's policy take
# the same temperature, so that they train what raters see.
TEMPERATURE = 0.7
SAMPLING = SamplingConfig(temperature=TEMPERATURE)
