import numpy as np
from common import gelu, softmax, topk

PERMUTES = ["F"]


def reference(a, d):
    T, E, NF, L = d["T"], d["E"], d["NF"], d["L"]
    # gamma = 11/10, tau = 3/4, in exact integers: C_f = ceil(gamma tau K T / (tau NF + NZ)), C_z = ceil(gamma K T / ...).
    below = 3 * NF + 4 * (E - NF)
    c_f, c_z = -(-33 * d["K"] * T // (10 * below)), -(-44 * d["K"] * T // (10 * below))
    h, z, routing = a["x"].copy(), None, np.zeros((L, T, E))
    for i in range(L):
        z = h @ a["wr"][i] + (z @ a["wres"][i] if i else 0.0)
        p = softmax(z)
        served, add = np.zeros(E, int), np.zeros_like(h)
        for t, v in enumerate(h):
            for e in topk(p[t], d["K"]):
                if served[e] == (c_f if e < NF else c_z):
                    continue
                served[e] += 1
                routing[i, t, e] = p[t, e]
                if e < NF:
                    o = gelu(v @ a["w1"][i, e]) @ a["w2"][i, e]
                elif e == NF:
                    o = np.zeros_like(v)
                elif e == NF + 1:
                    o = v
                else:
                    c = e - NF - 2
                    blend = softmax(v @ a["wc"][i, c])
                    o = blend[0] * v + blend[1] * a["cv"][i, c]
                add[t] += p[t, e] * o
        h = h + add
    return {"y": h, "routing": routing, "logits": z}
