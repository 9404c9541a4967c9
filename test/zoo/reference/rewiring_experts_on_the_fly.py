import numpy as np
from common import softmax, swiglu, topk

STEPS = 2
PERMUTES = ["E", "F", "T2"]
SPLITS = ["T2"]


def make_inputs(rng, dims):
    return {
        "target": rng.integers(0, dims["V"], dims["T"]), "delta_in": rng.standard_normal(dims["E"]) * 0.2,
        "lr": rng.uniform(0.2, 1.0, 1),
    }


def layer(v, delta, a, k):
    """The layer's output, the chosen experts' weights, and their outputs."""
    z = v @ a["wr"] + delta
    chosen = topk(z, k)
    g = dict(zip(chosen, softmax(z[chosen])))
    o = {e: swiglu(v, a["wg"][e], a["wu"][e], a["wd"][e]) for e in chosen}
    return v + sum(g[e] * o[e] for e in chosen), g, o


def reference(a, d):
    T, K = d["T"], d["K"]
    delta, loss = a["delta_in"].copy(), np.zeros(STEPS)
    for step in range(STEPS):
        grad = np.zeros(d["E"])
        for t, v in enumerate(a["x"]):
            h, g, o = layer(v, delta, a, K)
            r = softmax(h @ a["wv"])
            loss[step] -= np.log(r[a["target"][t]]) / T
            r[a["target"][t]] -= 1.0
            dh = r @ a["wv"].T / T
            c = {e: dh @ o[e] for e in g}
            mean = sum(g[e] * c[e] for e in g)
            for e in g:
                grad[e] += g[e] * (c[e] - mean)
        delta = delta - a["lr"][0] * grad
    y, routing = np.zeros((d["T2"], d["D"])), np.zeros((d["T2"], d["E"]))
    for t, v in enumerate(a["x2"]):
        y[t], g, _ = layer(v, delta, a, K)
        for e, w in g.items():
            routing[t, e] = w
    return {"y": y, "routing": routing, "delta_out": delta, "loss": loss}
