import numpy as np
from common import greater, silu

PERMUTES = ["T", "E"]


def reference(a, d):
    T, E = d["T"], d["E"]
    y, routing, active = np.zeros((T, d["D"])), np.zeros((T, E)), np.zeros(T, int)
    needed = np.zeros(E, bool)
    for t, x in enumerate(a["x"]):
        z = x @ a["wr"]
        r = np.where(greater(z, 0.0), z, 0.0)
        routing[t] = a["gamma"] * r / np.sqrt(np.mean(r * r) + 1e-6)
        for e in np.flatnonzero(r > 0):
            active[t] += 1
            needed[e] = True
            y[t] += routing[t, e] * (silu(x @ a["wu"][e]) @ a["wd"][e])
    return {"y": y, "routing": routing, "active": active, "needed": needed}
