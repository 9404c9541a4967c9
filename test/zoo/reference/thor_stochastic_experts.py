import numpy as np
from common import margin, relu

PERMUTES = ["T"]
SPLITS = ["T"]


def make_inputs(rng, d):
    return {"u_tok": rng.uniform(0, 1, (d["B"], d["T"])), "u_seq": rng.uniform(0, 1, d["B"]), "u_batch": rng.uniform(0, 1, 1)}


def reference(a, d):
    B, T, E, L = d["B"], d["T"], d["E"], d["L"]
    y, ensemble, experts = a["x"].copy(), a["x"].copy(), np.zeros((L, B, T), int)

    def draw(u):
        margin(u * E - np.round(u * E))
        return min(int(np.floor(u * E)), E - 1)

    def ffn(l, e, v):
        return relu(v @ a["w1"][l, e]) @ a["w2"][l, e]

    for b in range(B):
        for t in range(T):
            for l, u in enumerate((a["u_tok"][b, t], a["u_seq"][b], a["u_batch"][0])):
                e = experts[l, b, t] = draw(u)
                y[b, t] += ffn(l, e, y[b, t])
                ensemble[b, t] += sum(ffn(l, e, ensemble[b, t]) for e in range(E)) / E
    return {"y": y, "experts": experts, "y_ens": ensemble}
