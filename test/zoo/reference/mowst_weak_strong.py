import numpy as np
from common import greater, relu, softmax

PERMUTES = ["F"]


def make_inputs(rng, d):
    adj = rng.random((d["T"], d["T"])) < 0.3
    return {"adj": adj | adj.T, "u": rng.random(d["T"])}


def reference(a, d):
    T, NC = d["T"], d["NC"]
    near = (a["adj"].astype(float) + np.eye(T) > 0) / 1.0
    mean = near / near.sum(axis=1, keepdims=True)
    p = softmax(relu(a["x"] @ a["a1"] + a["ab1"]) @ a["a2"] + a["ab2"])
    h = relu(mean @ a["x"] @ a["g1"] + a["gb1"])
    q = softmax(mean @ h @ a["g2"] + a["gb2"])
    var = np.sqrt(p.var(axis=1) / ((1 / NC) * (1 - 1 / NC)))
    entropy = 1 + np.sum(np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0), axis=1) / np.log(NC)
    weak_var, weak_ent = greater(var, a["u"]), greater(entropy, a["u"])
    return {"out_var": np.where(weak_var[:, None], p, q), "weak_var": weak_var, "out_ent": np.where(weak_ent[:, None], p, q),
            "weak_ent": weak_ent, "out_mix": var[:, None] * p + (1 - var[:, None]) * q}
