"""Names that are no identifiers, all the way: every file of a job has them, and patterns select by them."""

import json
from pathlib import Path

import onnx
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.export import ExportedProgram

from app.intake.limits import Limits
from app.intake.program.read import read_program
from tests.factories import fresh_of
from tests.job_program import run_job
from tests.odd_names import FEW, WIDTH, Counting, Named, called, keyed, named
from zeropoint import load, quantize
from zeropoint.graph.spelled_names import spelled_names
from zeropoint.schema.job import EXIT_OK, OUT_FOLDER, REPORT_FILE, JobSpec
from zeropoint.schema.report import Report

ALL = ["safetensors", "pt2", "onnx"]


def done(folder: Path, program: ExportedProgram, **recipe: object) -> tuple[Path, Report]:
    """The files of a job of what the gate made of a program, and its report."""
    torch.export.save(program, folder / "upload.pt2")
    (folder / "model.pt2").write_bytes(fresh_of(folder / "upload.pt2"))
    inputs = read_program(folder / "upload.pt2", Limits()).facts.inputs
    generator = torch.Generator().manual_seed(1)
    samples = {tensor.name: torch.randn(16, WIDTH, generator=generator) for tensor in inputs}
    save_file(samples, folder / "dataset.safetensors")
    recipe = {"validation": {"runtimes": "modelled"}, **recipe}
    spec = {"model": "model.pt2", "dataset": "dataset.safetensors", "recipe": recipe}
    (folder / "job.json").write_text(JobSpec.model_validate(spec).model_dump_json())
    assert run_job(folder) == EXIT_OK
    out = folder / OUT_FOLDER
    report = Report.model_validate_json((out / REPORT_FILE).read_bytes())
    assert report.verdict != "failed"
    return out, report


LEFT_OUT = ("layers.class", "layers.a b", "layers.größe", "layers.a,b", "layers.日本語")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> tuple[ExportedProgram, Path, Report]:
    program = named(FEW)
    patterns = ["layers.class", "layers.a b.weight", "layers.grö*", "layers.a,b", "layers.日本?"]
    return program, *done(tmp_path_factory.mktemp("job"), program, formats=ALL, exclude=patterns)


def test_the_report_and_the_metadata_have_the_names(job: tuple[ExportedProgram, Path, Report]) -> None:
    _, out, report = job
    layers = {f"{kind}.{name}" for kind in ("layers", "weights") for name in FEW}
    assert {skipped.name for skipped in report.skipped} == set(LEFT_OUT)
    assert {layer.name for layer in report.layers} == layers - set(LEFT_OUT)
    with safe_open(out / "model.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert {f"zeropoint.layer.{layer.name}" for layer in report.layers} <= metadata.keys()
    assert set(json.loads(metadata["zeropoint"])["architecture"]["float"]) == set(LEFT_OUT)


def test_the_files_of_tensors_have_the_names(job: tuple[ExportedProgram, Path, Report]) -> None:
    program, out, _ = job
    stored = load_file(out / "model.safetensors")
    assert program.state_dict.keys() <= stored.keys()
    model = onnx.load(out / "model.onnx", load_external_data=False)
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    assert {f"layers.{name}.weight" for name in FEW} <= initializers.keys()
    assert not any(tensor.external_data for tensor in initializers.values())
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "model.pt2", "model.onnx", "report.json"}
    respelled = spelled_names(stored)
    tensors = torch.export.load(out / "model.pt2").state_dict
    assert {respelled.get(name, name) for name in program.state_dict} <= tensors.keys()


def test_the_program_runs_wherever_torch_does(job: tuple[ExportedProgram, Path, Report]) -> None:
    _, out, report = job
    x = torch.randn(4, WIDTH)
    assert report.summary.sqnr_db is not None
    assert report.summary.sqnr_db > 20
    found, expected = torch.export.load(out / "model.pt2").module()(x), Named(FEW).eval()(x)
    assert torch.nn.functional.cosine_similarity(found, expected).min() > 0.99
    assert torch.equal(load(out).module(x), found)


def test_keys_of_dicts_name_the_outputs(tmp_path: Path) -> None:
    keys = (*FEW, "../../x", "", "a:b")
    out, report = done(tmp_path, keyed(keys), formats=ALL)
    assert [output.name for output in report.outputs] == [key or "0" for key in keys]
    names = [value.name for value in onnx.load(out / "model.onnx").graph.input]
    assert names[:3] == ["größe_my_layer", "größe_a_b", "größe_größe"]
    assert not {path.name for path in tmp_path.rglob("*")} & {"x", "..", "b"}


def test_arguments_name_the_inputs(tmp_path: Path) -> None:
    out, _ = done(tmp_path, called(), formats=ALL)
    assert [value.name for value in onnx.load(out / "model.onnx").graph.input] == ["größe", "名前"]


@pytest.mark.parametrize("name", ["class", "größe", "ﬁne"])
def test_buffers_that_calls_change_keep_their_names(tmp_path: Path, name: str) -> None:
    program = torch.export.export(
        Counting(name).eval(), (torch.randn(4, WIDTH),), dynamic_shapes=({0: torch.export.Dim.AUTO},)
    )
    out, _ = done(tmp_path, program)
    assert load_file(out / "model.safetensors")[name] == 0


class Layers(nn.Module):
    """Linears alone, which a module in memory gets stand-ins for."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH) for name in names})

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers.values():
            x = x + layer(x).relu()
        return x


def test_a_module_in_memory_keeps_its_names_too(tmp_path: Path) -> None:
    names = (*FEW, "it's", 'a"b', "a\nb", "a\\b", "x" * 300)
    module = Layers(names).eval()
    calls = [(torch.randn(4, WIDTH),) for _ in range(4)]
    quantized = quantize(module, calls)
    assert {layer.name for layer in quantized.report.layers} == {f"layers.{name}" for name in names}
    quantized.save(tmp_path)
    for again in (load(tmp_path), load(tmp_path, model=Layers(names))):
        assert torch.allclose(again.module(*calls[0]), quantized.module(*calls[0]), atol=1e-5)
