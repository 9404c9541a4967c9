import numpy as np
from common import sigmoid, softmax

PERMUTES = ["T", "E"]
SPLITS = ["T"]


def make_inputs(rng, d):
    return {"tau": np.array(rng.uniform(0.3, 2.0)), "target": rng.standard_normal(d["T"])}


def reference(a, d):
    routing = softmax(sigmoid(a["x"] @ a["beta1"] + a["beta0"]) / a["tau"], axis=1)
    mu, v = a["x"] @ a["a"] + a["b"], np.exp(a["log_var"])
    log = np.log(routing) - (a["target"][:, None] - mu) ** 2 / (2 * v) - 0.5 * np.log(2 * np.pi * v)
    top = log.max(axis=1, keepdims=True)
    density = top[:, 0] + np.log(np.exp(log - top).sum(axis=1))
    return {"mean": (routing * mu).sum(axis=1), "log_density": density, "routing": routing}
