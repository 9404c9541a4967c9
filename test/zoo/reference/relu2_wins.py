import numpy as np
from common import greater, relu

PERMUTES = ["T", "F"]
SPLITS = ["T"]


def make_inputs(rng, d):
    return {"thr": rng.uniform(0.2, 1.0, 1)}


def reference(a, d):
    act = relu(a["x"] @ a["w1"]) ** 2
    mask = greater(act * np.linalg.norm(a["w2"], axis=1), a["thr"][0])
    return {"y": (act * mask) @ a["w2"], "mask": mask, "count": mask.sum(axis=1), "y_dense": act @ a["w2"]}
