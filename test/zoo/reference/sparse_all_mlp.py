import numpy as np
from common import argmax, gelu, softmax

PERMUTES = ["F"]
SIZES = [{"T": 1}, {"T": 2}, {"T": 4}, {"T": 7}, {"T": 13}, {"T": 31}]


def layer_norm(v):
    return (v - v.mean(axis=1, keepdims=True)) / np.sqrt(v.var(axis=1, keepdims=True) + 1e-5)


def finish(x, z1, m, a, E):
    h = x + (z1 * m) @ a["wo"]
    n, y, routing = layer_norm(h), h.copy(), np.zeros((len(x), E))
    for t in range(len(x)):
        p = softmax(n[t] @ a["wr"])
        e = argmax(p)
        routing[t, e] = p[e]
        y[t] += p[e] * (gelu(n[t] @ a["w1"][e]) @ a["w2"][e])
    return y, routing


def reference(a, d):
    T, DS, DC, NC, ES, x = d["T"], d["DS"], d["DC"], d["NC"], d["ES"], a["x"]
    z = gelu(layer_norm(x) @ a["wu"])
    z1, z2 = z[:, :DS], z[:, DS:]
    det, pp, chosen, prefix = np.zeros((T, DS)), np.zeros((T, DS)), np.zeros(NC, int), max(1, T // 5)

    def mix(e, v, t):
        return a["bs"][e, t] + sum(a["ws"][e, t, s] * v[s] for s in range(t + 1))

    for c in range(NC):
        columns = slice(c * DC, (c + 1) * DC)
        g = softmax(z2[:prefix, columns].mean(axis=0) @ a["wrs"])
        chosen[c] = argmax(g)
        for t in range(T):
            det[t, columns] = mix(c % ES, z2[:, columns], t)
            if t >= prefix:
                pp[t, columns] = g[chosen[c]] * mix(chosen[c], z2[:, columns], t)
    y_det, routing_det = finish(x, z1, det, a, d["E"])
    y_pp, routing_pp = finish(x, z1, pp, a, d["E"])
    return {"y_det": y_det, "routing_det": routing_det, "y_pp": y_pp, "routing_pp": routing_pp, "chunk_expert": chosen}
