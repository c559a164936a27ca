"""Training with Lipschitz constants: penalties that follow the parameters of a module, and that gradients pass.

```
live = jb.training.Live(module, example)  # traced once; follows the module's parameters
penalty = jb.training.LogAutoLip(live)  # or PairBound(live), LocalLipschitz(live, radius=0.1)
loss = cross_entropy(module(x), y) + 0.03 * penalty()
```

Any module that `from_torch` takes, any optimiser. Values here are estimates in plain arithmetic; certified ones come
from `lipschitz` and `robust_radius` on an imported graph, outside the training step.
"""

from __future__ import annotations

from jacobound.training.constants import GlobalConstant, LogAutoLip, PairBound
from jacobound.training.live import Live
from jacobound.training.local import CriticPenalty, LocalLipschitz
from jacobound.training.norms import GramIteration, PowerIteration, SpectralNorm

__all__ = [
    "CriticPenalty",
    "GlobalConstant",
    "GramIteration",
    "Live",
    "LocalLipschitz",
    "LogAutoLip",
    "PairBound",
    "PowerIteration",
    "SpectralNorm",
]
