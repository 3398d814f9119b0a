"""Someone who has a `.pt2` file and torch, and nothing of ours: `python -P plain_torch_process.py FOLDER …`

Each folder has `model.pt2` and `calls.pt`, a list of (arguments, keywords). It gets `answer.pt`: what the program gave
in eager mode and compiled, by call, as flat lists; and which int8 kernels the compiled code calls, and how often.
"""

import re
import sys
from collections import Counter
from pathlib import Path

import torch
import torch._inductor.config
import torch.ao.quantization.fx._decomposed
from torch._inductor.utils import run_and_get_code
from torch.utils._pytree import tree_leaves

OURS = ("zeropoint", "sandbox", "app", "worker", "tests")
KERNEL = re.compile(r"torch\.ops\.onednn\.q(conv|linear)\w*_pointwise")


class Refusing:
    """Makes an import of ours fail, wherever it comes from."""

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] in OURS:
            raise ModuleNotFoundError(f"{name} is not here")


def answer(folder: Path) -> dict[str, object]:
    """What the program in the folder gives, in both modes."""
    module = torch.export.load(folder / "model.pt2").module()
    calls = torch.load(folder / "calls.pt", weights_only=True)
    eager = [tree_leaves(module(*arguments, **keywords)) for arguments, keywords in calls]
    torch._dynamo.reset()
    fast = torch.compile(module, dynamic=False)
    first, code = run_and_get_code(fast, *calls[0][0], **calls[0][1])
    rest = [tree_leaves(fast(*arguments, **keywords)) for arguments, keywords in calls[1:]]
    kernels = Counter(KERNEL.findall("".join(code)))
    return {"eager": eager, "compiled": [tree_leaves(first), *rest], "kernels": dict(kernels)}


if __name__ == "__main__":
    sys.meta_path.insert(0, Refusing())
    torch._inductor.config.freezing = True
    torch.set_num_threads(1)
    for name in sys.argv[1:]:
        with torch.no_grad():
            torch.save(answer(Path(name)), Path(name) / "answer.pt")
