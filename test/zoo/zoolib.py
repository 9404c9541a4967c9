"""What the zoo's driver knows about contracts, references, inputs and comparisons (no compiler in here)."""

import importlib
import json
import pathlib
import sys
import tomllib
import zlib

import numpy as np
from safetensors.numpy import load_file

ROOT = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "reference"))
import common  # noqa: E402

DTYPES = {"f32": np.float32, "i32": np.int32, "bool": np.bool_}
MARGIN = 1e-4


class Contract:
    """The data of one contract: sizes, arguments, results, tolerance."""

    def __init__(self, slug):
        self.slug = slug
        self.folder = ROOT / "cases" / slug
        data = json.loads((self.folder / "contract.json").read_text())
        self.title, self.dims, self.dynamic, self.min = (data[k] for k in ("title", "dims", "dynamic", "min"))
        self.args, self.results = data["args"], data["results"]
        self.atol, self.rtol = data["tolerance"]["atol"], data["tolerance"]["rtol"]

    def shape(self, value, dims):
        return tuple(dims[s] if isinstance(s, str) else s for s in value["shape"])

    def inputs_file(self):
        return self.folder / "inputs.safetensors"

    def expected_file(self):
        return self.folder / "expected.safetensors"

    def axes(self, value, dim):
        return [i for i, s in enumerate(value["shape"]) if s == dim]


def slugs():
    return sorted(p.parent.name for p in ROOT.glob("cases/*/contract.json"))


def lowerings(slug):
    """What lowerings.toml expects of the program's applies."""
    return tomllib.loads((ROOT / "lowerings.toml").read_text()).get(slug, [])


def reference_module(slug):
    return importlib.import_module(slug.replace("-", "_"))


def run_reference(contract, args, dims):
    """The results of the reference and the distances of its decisions."""
    wide = {
        a["name"]: args[a["name"]].astype({"f32": np.float64, "i32": np.int64, "bool": np.bool_}[a["dtype"]])
        for a in contract.args
    }
    with common.record_margins() as margins, np.errstate(all="ignore"):
        results = reference_module(contract.slug).reference(wide, dict(dims))
    return results, margins


def compare(contract, got, want, dims, only=None):
    """The complaints about the results `got`: names, shapes, and the worst entry of each result."""
    complaints = []
    for r in contract.results:
        name = r["name"]
        if only is not None and name not in only:
            continue
        if name not in got:
            complaints.append(f"result '{name}' is missing")
            continue
        g, w, shape = np.asarray(got[name]), np.asarray(want[name]), contract.shape(r, dims)
        if g.shape != shape or w.shape != shape:
            complaints.append(f"{name}: expected the shape {shape}, got {g.shape}, reference {w.shape}")
            continue
        if g.size == 0:
            continue
        if r["dtype"] == "f32":
            g, w = g.astype(np.float64), w.astype(np.float64)
            with np.errstate(invalid="ignore"):
                close = np.abs(g - w) <= contract.atol + contract.rtol * np.abs(w)
            close |= (g == w) | (np.isnan(g) & np.isnan(w))
        else:
            close = g == w
        if not close.all():
            i = tuple(int(x) for x in np.argwhere(~close)[0])
            complaints.append(f"{name}{list(i)}: got {g[i]}, want {w[i]} ({np.count_nonzero(~close)} of {g.size} differ)")
    return complaints


def random_args(contract, dims, rng):
    """Inputs as the reference's module wants them."""
    module = reference_module(contract.slug)
    special = module.make_inputs(rng, dict(dims)) if hasattr(module, "make_inputs") else {}
    args = {}
    for a in contract.args:
        shape, dtype = contract.shape(a, dims), DTYPES[a["dtype"]]
        if a["name"] in special:
            value = np.asarray(special[a["name"]])
            assert value.shape == shape, f"{contract.slug}: make_inputs gives {a['name']} the shape {value.shape}"
        elif a["dtype"] != "f32":
            raise ValueError(f"{contract.slug}: make_inputs must give '{a['name']}'")
        else:
            value = rng.standard_normal(shape)
            if a["role"] == "param":
                value = value / (np.sqrt(max(1, shape[-2])) if len(shape) > 1 else 3.0)
        args[a["name"]] = value.astype(dtype, order="C")
    return args


def tie(contract, args, rng, zeros):
    """Inputs with exact ties: small dyadic numbers, whose sums and products are exact, rows that occur again and again,
    and with `zeros` a row whose scores are all equal."""
    out = dict(args)
    for a in contract.args:
        value = args[a["name"]]
        if a["dtype"] != "f32" or value.ndim == 0 or value.size == 0:
            continue
        value = np.round(value * 4) / 4
        dynamic = [i for i, s in enumerate(a["shape"]) if s in contract.dynamic]
        if a["role"] == "input" and dynamic:
            axis, kinds = dynamic[-1], 3
            value = np.take(value, rng.integers(0, min(kinds, value.shape[axis]), value.shape[axis]), axis=axis)
            if zeros:
                value[(slice(None),) * axis + (slice(0, 1),)] = 0
        out[a["name"]] = np.ascontiguousarray(value.astype(np.float32))
    return out


def draw(contract, dims, seed, ties=False):
    """Inputs at which every decision of the reference is clear, and the reference's results. With `ties`, decisions
    between equal numbers are clear too: the definition says which wins."""
    for attempt in range(200):
        text = f"{contract.slug} {sorted(dims.items())} {seed} {attempt}{' ties' if ties else ''}"
        rng = np.random.default_rng(zlib.crc32(text.encode()))
        args = random_args(contract, dims, rng)
        if ties:
            args = tie(contract, args, rng, zeros=attempt % 4 != 3)
        results, margins = run_reference(contract, args, dims)
        if all(m >= MARGIN or (ties and m == 0) for m in margins):
            return args, results
    raise ValueError(f"{contract.slug}: no inputs with clear decisions in 200 draws of {dims}")


def sizes(contract):
    """The dims of the calls to try."""
    module = reference_module(contract.slug)
    if hasattr(module, "SIZES"):
        return [contract.dims | s for s in module.SIZES]
    out = []
    for n, d in enumerate(contract.dynamic):
        low = contract.min[d]
        tried = [s for s in [low, 1, 2, 7, 13, 31] + ([64] if n == 0 else []) if s >= low]
        out += [contract.dims | {d: s} for s in dict.fromkeys(tried)]
    return out


def stored_example(contract):
    """The inputs and the expected results that came with the contract."""
    return load_file(str(contract.inputs_file())), load_file(str(contract.expected_file()))


def check_reference(slug):
    """Complaints of the reference against the stored example."""
    contract = Contract(slug)
    args, want = stored_example(contract)
    got, _ = run_reference(contract, args, contract.dims)
    missing = {r["name"] for r in contract.results} ^ set(got)
    return [f"names differ: {sorted(missing)}"] if missing else compare(contract, got, want, contract.dims)


def permuted(contract, values, specs, dim, order):
    """Every value that has the dimension, reordered along all its axes of that name."""
    out = dict(values)
    for s in specs:
        for axis in contract.axes(s, dim):
            out[s["name"]] = np.ascontiguousarray(np.take(out[s["name"]], order, axis=axis))
    return out


def poisoned(contract, args, dim):
    """NaN and infinity in the first two slices of the inputs that have the dimension."""
    out = dict(args)
    for a in contract.args:
        if a["role"] == "input" and a["dtype"] == "f32" and contract.axes(a, dim):
            value, axis = args[a["name"]].copy(), contract.axes(a, dim)[0]
            for place, poison in ((0, np.nan), (1, np.inf)):
                value[(slice(None),) * axis + (place,)] = poison
            out[a["name"]] = value
    return out


def part(contract, values, dim, begin, end, specs=None):
    out = dict(values)
    for a in contract.args if specs is None else specs:
        for axis in contract.axes(a, dim):
            out[a["name"]] = np.ascontiguousarray(np.take(out[a["name"]], range(begin, end), axis=axis))
    return out
