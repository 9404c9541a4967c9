"""How long a run will take, and what it needs."""
import shutil
import tempfile

from chain import SHAPES, chain_layers, expert_bytes, layer_bytes
from measure import Failed, count_inputs, least_seconds

# What engines reach of the roofline, the speed at which models are written, read and compiled, and what a turn takes beside the calls.
USUAL_SHARE, WRITE, TURN = 0.4, 0.4e9, 0.06


def duration(seconds):
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def cell_seconds(options, limit, shape, dtype, layers, tokens):
    hidden, inner, experts, k = SHAPES[shape]
    touched = experts * (1 - (1 - k / experts) ** tokens)
    peak = limit["flop_per_second"]
    least = least_seconds({"bytes_per_second": touched * expert_bytes(shape, dtype), "flop_per_second": tokens * k * 6 * hidden * inner},
                          {"bytes_per_second": limit["bytes_per_second"], "flop_per_second": peak[dtype] if isinstance(peak, dict) else peak})
    call = layers * least / USUAL_SHARE
    calls = count_inputs(limit["cache_bytes"], touched * layers * expert_bytes(shape, dtype))
    # Turns, the run that results are compared of, and those with a process beside.
    turn = max(1.5 * options.seconds, calls * call) + TURN
    beside = (max(10 * call, 2 * options.seconds) + calls * call) * 2 if options.disturb else 0
    return len(engines(options)) * (options.rounds * turn + (calls + 1) * call) + beside


def engines(options):
    return [*options.engines, *(["other"] if options.against or options.beside else [])]


def needs(options, limits):
    """Seconds, and bytes of disk and of memory, at most at one time."""
    seconds = disk = memory = 0
    for shape in options.shapes:
        for dtype in options.dtypes:
            layers = chain_layers(shape, options.pool)
            weights = layers * layer_bytes(shape, dtype)
            modules = sum(name in ("ours", "other") for name in engines(options))
            disk = max(disk, weights * (1 + modules))
            # Files stay in the cache of the system; engines other than ours and onnxruntime make copies of their own.
            copies = sum(name not in ("ours", "other") for name in engines(options))
            memory = max(memory, weights * copies)
            seconds += 3 + weights * (1 + modules + copies) / WRITE
            seconds += sum(cell_seconds(options, limits[n], shape, dtype, layers, tokens)
                           for n in options.threads for tokens in options.tokens for _ in options.routings)
    return seconds, disk, memory


def tell(options, limits):
    """The estimate in words. Fails where the disk is too small."""
    seconds, disk, memory = needs(options, limits)
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if disk * 1.05 > free:
        raise Failed(f"the weights need {disk / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are free: TMPDIR names another folder, "
                     "--shapes fewer shapes")
    return (f"about {int(seconds) // 60} min {int(seconds) % 60} s on a quiet machine, {disk / 1e9:.1f} GB in {folder}, and {memory / 1e9:.1f} GB of memory for "
            "copies of weights")
