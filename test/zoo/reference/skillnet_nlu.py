import numpy as np
from common import gelu

PERMUTES = ["T", "SK"]
SPLITS = ["T"]


def make_inputs(rng, d):
    return {"task": rng.integers(0, d["TASKS"], d["T"]), "table": rng.uniform(size=(d["TASKS"], d["SK"])) < 0.4}


def reference(a, d):
    y, routing = np.zeros((d["T"], d["D"])), np.zeros((d["T"], d["SK"]))
    for t, x in enumerate(a["x"]):
        skills = np.flatnonzero(a["table"][a["task"][t]])
        for s in skills:
            routing[t, s] = 1 / len(skills)
            y[t] += (gelu(x @ a["w1"][s] + a["b1"][s]) @ a["w2"][s] + a["b2"][s]) / len(skills)
    return {"y": y, "routing": routing}
