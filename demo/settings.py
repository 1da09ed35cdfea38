"""What the demo project sets otherwise than the library; standard library only."""

from rlhf_core.config import SamplingConfig

# At temperature 1 a model of this size strays into nonsense within a sentence. Runs of the project take the temperature
# that it serves with, so they train what raters see.
SAMPLING = SamplingConfig(temperature=0.7)
