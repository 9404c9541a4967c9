import numpy as np
from common import at_least, relu, softmax

SIGMA = 0.2533471031357997
PERMUTES = ["T", "H"]
SPLITS = ["T"]


def make_inputs(rng, dims):
    return {
        "bn_mean": rng.standard_normal((2, dims["H"])) * 0.2, "bn_var": rng.uniform(0.5, 1.5, (2, dims["H"])),
        "keep": rng.random((dims["N"], dims["N"])) < 0.85,
        "w1r": rng.standard_normal((dims["D"], dims["H"], dims["N"])) / np.sqrt(dims["D"]),
        "w2r": rng.standard_normal((dims["D"], dims["H"], dims["N"])) / np.sqrt(dims["D"]),
    }


def gates(x, w, mean, var):
    g = np.zeros(w.shape[1:])
    for h in range(w.shape[1]):
        z = x @ w[:, h]
        n = (z - mean[h]) / np.sqrt(var[h] + 1e-5)
        best = np.argmax(n)
        # The largest is always kept, so only the others are decided by the threshold.
        kept = np.array([i == best or at_least(n[i], min(n[best], SIGMA)) for i in range(len(n))])
        g[h] = softmax(np.where(kept, z, -np.inf))
    return g


def relu2(v):
    return relu(v) ** 2


def reference(a, d):
    T, H, N = d["T"], d["H"], d["N"]
    y, g1, g2 = np.zeros((T, d["D"])), np.zeros((T, H, N)), np.zeros((T, H, N))
    for t, x in enumerate(a["x"]):
        g1[t] = gates(x, a["w1r"], a["bn_mean"][0], a["bn_var"][0])
        g2[t] = gates(x, a["w2r"], a["bn_mean"][1], a["bn_var"][1])
        weight = np.einsum("hi,hj->ij", g1[t], g2[t]) * a["keep"]
        h = x.copy()
        for i in range(N):
            for j in range(N):
                h += weight[i, j] * (relu2(x @ a["u"][i] + a["bu"][i]) @ a["v_top"][j] + a["b"][j])
        y[t] = h
        for i in range(N):
            for j in range(N):
                r1, r2 = relu2(h @ a["u1"][i] + a["c1"][i]), relu2(h @ a["u2"][j] + a["c2"][j])
                upper = r1 @ a["v11"][i] + r2 @ a["v12"][i] + a["b1"][i]
                lower = r1 @ a["v21"][j] + r2 @ a["v22"][j] + a["b2"][j]
                y[t] += weight[i, j] * np.concatenate([upper, lower])
    return {"y": y, "g1": g1, "g2": g2}
