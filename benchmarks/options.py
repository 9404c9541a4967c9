"""What ./run bench is asked for."""
import argparse
import pathlib
import shutil

import numpy as np

from chain import DTYPES, ROUTINGS, SHAPES
from measure import find_build
from targets import FALL

HERE = pathlib.Path(__file__).resolve().parent
ENGINES = ("ours", "onnxruntime", "torch", "torch-loop", "openvino", "cublas", "cudnn")
# Engines that run in an interpreter of their own, and what it has.
FOREIGN = {"torch": "torch", "torch-loop": "torch", "openvino": "openvino"}
# Engines that are no peers.
OWN = ("ours", "other")
# Engines that compute the experts' products only.
PRODUCTS = ("cublas", "cudnn")
SWEEP = [*range(1, 41), *sorted(int(t) for t in np.random.default_rng(0).choice(np.arange(41, 1025), 20, replace=False))]


def parse(arguments, description=None):
    parser = argparse.ArgumentParser(prog="./run bench", description=description,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    words = lambda text: text.split(",")
    numbers = lambda text: [int(word) for word in text.split(",")]
    parser.add_argument("--shapes", type=words, default=["granite-1b", "olmoe"], help=f"of: {', '.join(SHAPES)}, or all")
    parser.add_argument("--tokens", type=numbers, default=None,
                        help="numbers of tokens (default: 1,16,128,512; on a GPU 1,8,64,512,4096)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="what runs the modules")
    parser.add_argument("--threads", type=numbers, default=None, help="numbers of threads (default: 1,2)")
    parser.add_argument("--routings", type=words, default=["uniform"], help=f"of: {', '.join(ROUTINGS)}")
    parser.add_argument("--dtypes", type=words, default=None, help=f"of: {', '.join(DTYPES)} (default: f32; on a GPU f16,bf16)")
    parser.add_argument("--engines", type=words, default=None,
                        help=f"of: {', '.join(ENGINES)} (default: the first two, and those whose interpreters are given; on a GPU ours, cublas and "
                        "cudnn, and torch)")
    parser.add_argument("--torch-python", help="a Python interpreter that has PyTorch; nothing else here needs it")
    parser.add_argument("--openvino-python", help="a Python interpreter that has OpenVINO and numpy; nothing else here needs it")
    parser.add_argument("--against", metavar="BUILD", help="a build folder of another moe-compile, or the program in it, that is measured as well")
    parser.add_argument("--against-flag", action="append", default=[], help="another option for that moe-compile")
    parser.add_argument("--beside", metavar="TYPE", choices=DTYPES, help="ours with weights of this type takes turns with those of the other --dtypes")
    parser.add_argument("--pool", type=float, default=0.8, help="GB of f32 weights that a chain has at least")
    parser.add_argument("--rounds", type=int, default=None, help="turns of each engine per cell (default: 5; with --against 12)")
    parser.add_argument("--seconds", type=float, default=0.15, help="of each turn, at least")
    parser.add_argument("--disturb", action="store_true", help="also time our module while a process spins on one core")
    parser.add_argument("--sweep", action="store_true",
                        help=f"T from 1 to 40 and 20 more up to 1024, our module only; fails where the share falls by more than {FALL} from one T to the next")
    parser.add_argument("--allow-cached", action="store_true", help="do not fail where weights stay in a cache")
    parser.add_argument("--compile-flag", action="append", default=[], help="another option for moe-compile")
    parser.add_argument("--build", default=str(HERE.parent / "build"), help="build folder with the tools")
    parser.add_argument("--json", help="also write all figures to this file, after each cell")
    parser.add_argument("--resume", action="store_true", help="keep what an interrupted run with the same options has left in the file of --json")
    parser.add_argument("--plot", help="also draw the shares over T to this SVG file")
    parser.add_argument("--markdown", help="also write the table to this file, for documents")
    options = parser.parse_args(arguments)
    if options.shapes == ["all"]:
        options.shapes = [name for name in SHAPES if name != "tiny"]
    if options.sweep:
        options.tokens, options.engines = SWEEP, ["ours"]
    on_gpu = options.device == "cuda"
    options.tokens = options.tokens or ([1, 8, 64, 512, 4096] if on_gpu else [1, 16, 128, 512])
    options.dtypes = options.dtypes or (["f16", "bf16"] if on_gpu else ["f32"])
    if on_gpu and (options.threads not in (None, [1]) or options.disturb):
        parser.error("--threads and --disturb are about the processor")
    options.threads = options.threads or ([1] if on_gpu else [1, 2])
    if options.resume and not options.json:
        parser.error("--resume goes on from the file of --json")
    if options.against_flag and not options.against:
        parser.error("--against-flag is for the compiler of --against")
    if options.against:
        options.against = find_build(options.against, parser)
        if on_gpu or options.sweep:
            parser.error("--against goes with neither --device=cuda nor --sweep")
        if options.beside:
            parser.error("--against and --beside are two answers to what stands beside ours: give one of them")
    options.rounds = options.rounds or (12 if options.against else 5)
    if options.engines is None and options.against:
        options.engines = ["ours"]
    elif options.engines is None:
        options.engines = ["ours", *(PRODUCTS if on_gpu else ["onnxruntime"])]
        options.engines += [name for name, module in FOREIGN.items() if getattr(options, f"{module}_python") and not (on_gpu and name == "openvino")]
    for given, known in ((options.shapes, SHAPES), (options.routings, ROUTINGS), (options.dtypes, DTYPES),
                         (options.engines, ENGINES)):
        for name in given:
            if name not in known:
                parser.error(f"'{name}' is none of: {', '.join(known)}")
    for name in ("onnxruntime", "openvino"):
        if on_gpu and name in options.engines:
            parser.error(f"{name} is measured on the processor only")
    if not on_gpu and any(name in PRODUCTS for name in options.engines):
        parser.error("cublas and cudnn are measured on a GPU only")
    if options.beside and (on_gpu or options.sweep):
        parser.error("--beside goes with neither --device=cuda nor --sweep")
    for name in ("against", "beside"):
        if getattr(options, name) and "ours" not in options.engines:
            parser.error(f"--{name} compares with ours, which --engines leaves out")
    for name in options.engines:
        option = f"{FOREIGN.get(name)}_python"
        if name in FOREIGN and not getattr(options, option):
            parser.error(f"'{name}' is not among the project's packages: name an interpreter that has it with --{FOREIGN[name]}-python")
        if name in FOREIGN and not shutil.which(getattr(options, option)):
            parser.error(f"--{FOREIGN[name]}-python: there is no program '{getattr(options, option)}'")
    return options
