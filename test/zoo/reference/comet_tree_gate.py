import numpy as np
from common import margin, relu

GAMMA = 1.0
PERMUTES = ["T", "K", "F"]
SPLITS = ["T"]


def make_inputs(rng, dims):
    return {
        "perm": np.stack([rng.permutation(dims["E"]) for _ in range(dims["K"])]),
        "b_node": rng.standard_normal((dims["K"], dims["N"])) * 0.2,
    }


def smooth_step(v):
    if v <= -GAMMA / 2:
        return 0.0
    if v >= GAMMA / 2:
        return 1.0
    return -2 / GAMMA**3 * v**3 + 3 / (2 * GAMMA) * v + 0.5


def reference(a, d):
    T, E, K = d["T"], d["E"], d["K"]
    y, routing = np.zeros((T, d["D"])), np.zeros((T, E))
    for t, x in enumerate(a["x"]):
        w = np.zeros((K, E))
        for j in range(K):
            v = x @ a["w_node"][j] + a["b_node"][j]
            margin(np.abs(v) - GAMMA / 2)
            s = [smooth_step(u) for u in v]
            for leaf in range(E):
                node, path, low, size = 0, 1.0, 0, E
                while size > 1:
                    left = leaf < low + size // 2
                    path *= s[node] if left else 1 - s[node]
                    node, low, size = 2 * node + (1 if left else 2), low if left else low + size // 2, size // 2
                w[j, leaf] = path * np.exp(x @ a["w_leaf"][j][:, leaf])
        w /= np.sum(w)
        for j in range(K):
            for leaf in range(E):
                routing[t, a["perm"][j, leaf]] += w[j, leaf]
        for e in range(E):
            y[t] += routing[t, e] * (relu(x @ a["w1"][e]) @ a["w2"][e])
    return {"y": y, "routing": routing}
