"""Run exported programs, float or quantized, with torch alone: python examples/run_program.py TEST.pt MODEL.pt2 ...

Nothing of Zeropoint is needed: the one import beside torch makes the quantized_decomposed operators known.
"""

import sys
from pathlib import Path

import torch
import torch.ao.quantization.fx._decomposed


def main(test_file: str, program_files: list[str]) -> None:
    test = torch.load(test_file, weights_only=True)
    for program_file in program_files:
        program = torch.export.load(program_file).module()
        with torch.no_grad():
            logits = program(test["images"])
        accuracy = (logits.argmax(1) == test["labels"]).float().mean().item()
        print(f"  accuracy {100 * accuracy:.2f} %  {program_file}, {Path(program_file).stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
