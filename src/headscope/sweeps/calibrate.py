"""x"""

from headscope.models.model import Model
from headscope.sweeps.plan import Costs


def costs_of(model: Model) -> Costs:
    return Costs(24, 2048)
