"""What all measurements share: engines in processes of their own that take turns, the machine's limits at each turn, statistics."""
import filecmp
import json
import math
import os
import pathlib
import signal
import subprocess

import numpy as np

import vendor

HERE = pathlib.Path(__file__).resolve().parent
# What moe-run --machine measures.
LIMITS = ("bytes_per_second", "flop_per_second", "integer_op_per_second")


class Failed(Exception):
    """Why something could not be measured that should have been."""


class Engine:
    """A worker process (engines.py). `name` is what the results call it, `kind` what it is."""

    def __init__(self, name, python, model, shape, dtype, device="cpu", kind=None):
        self.name = name
        # No thread of an engine that waits for its turn may spin.
        environment = {**os.environ, "KMP_BLOCKTIME": "0", "OMP_WAIT_POLICY": "PASSIVE"}
        self.process = subprocess.Popen([python, HERE / "engines.py", kind or name, model, shape, dtype, device], env=environment,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"{self.name} ended with exit code {self.process.wait()}")
        answer = json.loads(line)
        if "missing" in answer:
            self.close()
            raise vendor.Missing(answer["missing"])
        return answer

    def ask(self, **command):
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: no answer comes
        return self.answer()

    def close(self):
        self.process.stdin.close()
        self.process.wait()

    def end(self):
        """Also where it is still at work."""
        self.process.kill()
        self.process.wait()


class Cells:
    """What benchmarks of float and of quantised layers do alike: `cells` and `probes`, `finish` (a cell, with the limits so far), `header` and `line`."""

    def finish_all(self):
        for cell in self.cells:
            self.finish(cell)

    def end(self):
        for probe in self.probes.values():
            probe.end()
        self.finish_all()

    def print_all(self):
        self.finish_all()
        print("\nwith the limits of the whole run:\n" + self.header())
        for cell in self.cells:
            print(self.line(cell))


class Probe:
    """The machine's limits with some threads, measured again whenever it is asked, in a process of its own."""

    def __init__(self, tools, threads):
        self.process = subprocess.Popen([tools / "moe-run", "--machine", "--probe", f"--threads={threads}", "--json"],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ask()

    def ask(self):
        """Those of this moment; `best` keeps the most of all."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        self.best = answer["best"]
        return answer["now"]

    def close(self):
        self.process.stdin.close()
        self.process.stdout.read()
        self.process.wait()

    def end(self):
        self.process.kill()
        self.process.wait()


def interrupt_on_end():
    """Whoever ends this process (timeout, a job's limit) interrupts it: gigabytes of files do not stay, and what was measured is told."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"{' '.join(map(str, command))}\nfailed:\n{done.stderr or done.stdout}")
    return done.stdout


def write(path, text):
    temporary = f"{path}.tmp"
    pathlib.Path(temporary).write_text(text)
    os.replace(temporary, path)


def take_turns(engines, probe, rounds, least_seconds, inputs, layers):
    """Times engines that are prepared, every second round in the opposite order: what drifts then hits all alike. Returns the
    seconds of each call per layer, and the turns (the limits between the measurements before and after, and the median call),
    both by engine. `probe` measures the limits of a moment, or returns None where they do not change."""
    seconds, turns = ({engine.name: [] for engine in engines} for _ in range(2))
    before = probe()
    for round in range(rounds):
        for engine in engines if round % 2 == 0 else engines[::-1]:
            # What the engine before left in the caches goes first. Where that takes long, it does not matter, and is the turn.
            times = engine.ask(calls=inputs)["seconds"]
            if sum(times) < 2 * least_seconds:
                times = engine.ask(calls=max(2, min(200, math.ceil(least_seconds / np.median(times)))))["seconds"]
            times = [t / layers for t in times]
            seconds[engine.name] += times
            after = probe()
            if after:
                turns[engine.name].append({**{key: (before[key] + after[key]) / 2 for key in LIMITS}, "seconds": float(np.median(times))})
            before = after
    return seconds, turns


def processor_features():
    """What the kernel says that this processor has."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())


def uses_tiles(build, module):
    """Whether a module has code with tile instructions for bf16, which this machine can run."""
    target = json.loads(run([build / "bin/moe-run", module, "--signature", "--json"]))["target"]
    versions = [target, *target.get("versions", [])]
    return any("amx_bf16" in each["features"] and processor_features().issuperset(each["features"]) for each in versions)


def least_seconds(work, limit):
    """What the limits allow: `work` says how much of each there is to do."""
    return max(amount / limit[key] for key, amount in work.items())


def figures(work, times, turns, limit):
    """What one engine's times of a cell come to. The share is the median over the turns, each with its own limits; without turns, and
    for `share_of_best`, it is that of the run's limits."""
    median = float(np.median(times))
    best = least_seconds(work, limit) / median
    share = float(np.median([least_seconds(work, turn) / turn["seconds"] for turn in turns])) if turns else best
    return {"median": median, "p10": float(np.quantile(times, 0.1)), "p90": float(np.quantile(times, 0.9)), "share": share,
            "share_of_best": best}


def count_inputs(cache_bytes, touched_bytes):
    """So many different inputs that what they touch together is several times the cache."""
    return min(16, max(1, math.ceil(8 * cache_bytes / touched_bytes)))


def find_build(path, parser):
    """The build folder of a compiler that is named by its program or by its folder."""
    path = pathlib.Path(path).resolve()
    build = path.parent.parent if path.name == "moe-compile" else path
    for part in ("bin/moe-compile", "lib/libmoe_runtime.so"):
        if not (build / part).exists():
            parser.error(f"--against: {build} is no build folder: it has no {part}")
    return build


def compile_model(build, model, module, flags, beside=None):
    """Compiles with the compiler of `build`, for the runtime of the same build; returns the seconds of the phases. If the weights are those
    of the module `beside`, both read one file: two files of the same bytes differ in speed by up to 8 %, by where their pages lie."""
    summary = json.loads(run([build / "bin/moe-compile", model, "-o", module, "--json", *flags]))
    if beside:
        weights, known = (each.with_suffix(".safetensors") for each in (module, beside))
        if weights.exists() and known.exists() and filecmp.cmp(weights, known, shallow=False):
            weights.unlink()
            os.link(known, weights)
    # What engines.py finds the runtime by.
    module.with_suffix(".build").write_text(str(build))
    return {**summary["seconds"], **{f"llvm {name}": s for name, s in summary.get("llvm_seconds", {}).items()}}


def median_interval(samples):
    """The 95 % bootstrap interval of medians, by row of the result of `samples(generator)`."""
    return [float(bound) for bound in np.quantile(samples(np.random.default_rng(0)), [0.025, 0.975])]


def ratio_interval(ours, theirs):
    """The ratio of the medians of all calls, with its interval."""
    ours, theirs = np.array(ours), np.array(theirs)
    median = lambda rng, x: np.median(rng.choice(x, (1000, len(x))), axis=1)
    return [float(np.median(theirs) / np.median(ours)), *median_interval(lambda rng: median(rng, theirs) / median(rng, ours))]


def paired_interval(ours, theirs):
    """The median over the rounds of the ratio of two turns of one round, with its interval: the machine was the same for both."""
    ratios = np.array([b["seconds"] / a["seconds"] for a, b in zip(ours, theirs)])
    return [float(np.median(ratios)), *median_interval(lambda rng: np.median(rng.choice(ratios, (1000, len(ratios))), axis=1))]
