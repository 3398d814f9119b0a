"""Import the modules that torch imports on first use, in a process that has to wait for its job anyway.

Opening, decomposing and saving a `.pt2` import over 800 modules. Importing this module runs nothing else.
"""

import torch._export.serde.serialize
import torch._inductor.ir
import torch._inductor.sizevars
import torch.export._trace
import torch.export._unlift
import torch.export.pt2_archive._package
import torch.fx.experimental.validator
import torch.utils.serialization  # noqa: F401
