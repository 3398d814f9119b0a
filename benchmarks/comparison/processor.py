"""What the processor has for integers: no table can be compared with another without it."""

from pathlib import Path

INTEGER_FEATURES = ("avx2", "avx512bw", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")


def features() -> str:
    """Return a processor's model and what it has for integers, as Linux names them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "processor not known"
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "processor")
    words = next((line.split() for line in lines if line.startswith(("flags", "Features"))), [])
    return f"{model}: {', '.join(one for one in INTEGER_FEATURES if one in words) or 'nothing for integers'}"
