"""What torch imports at first use, imported when this module is: for a process that waits for its job anyway.

Opening a `.pt2`, and decomposing and saving it, import over 800 modules between them. Nothing is run.
"""

import torch._export.serde.serialize
import torch._inductor.ir
import torch._inductor.sizevars
import torch.export._trace
import torch.export._unlift
import torch.export.pt2_archive._package
import torch.fx.experimental.validator
import torch.utils.serialization  # noqa: F401
