"""What to try when a limit was reached: a concrete smaller setting, in words for the API's user."""

from zeropoint.schema.recipe import DEFAULT_BATCH_SIZE, DEFAULT_CALIBRATION_SAMPLES, Recipe


def smaller_batch(recipe: Recipe) -> str:
    """A quarter of the batch, for what takes too much memory; with one sample in it, the formats."""
    size = recipe.calibration.batch_size or DEFAULT_BATCH_SIZE
    if size == 1:
        return less_on_disk(recipe)
    return f'Set "calibration": {{"batch_size": {max(1, size // 4)}}} in the recipe'


def fewer_samples(recipe: Recipe) -> str:
    """Half of the samples, for what takes too long."""
    samples = recipe.calibration.samples or DEFAULT_CALIBRATION_SAMPLES
    return f'Set "calibration": {{"samples": {max(1, samples // 2)}}} in the recipe'


def less_on_disk(recipe: Recipe) -> str:
    """The smallest choice of formats, for what takes too much room; else less of what goes in."""
    if recipe.formats != ("safetensors",):
        return 'Set "formats": ["safetensors"] in the recipe'
    return "Upload fewer samples"
