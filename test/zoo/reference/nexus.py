import numpy as np
from common import silu, softmax, swiglu, topk

PERMUTES = ["T", "F"]
SPLITS = ["T"]


def layer(x, columns, k, experts, routing):
    p = softmax(columns @ x)
    for e in topk(p, k):
        routing[e] = p[e]
    return sum(routing[e] * swiglu(x, *experts[e]) for e in np.flatnonzero(routing))


def reference(a, d):
    E = d["E"]
    experts = [(a["w1"][e], a["w3"][e], a["w2"][e]) for e in range(E)] + [(a["w1_new"], a["w3_new"], a["w2_new"])]
    doms = list(a["dom"]) + [a["dom_new"]]
    columns = np.array([(silu(v @ a["pa"]) * (v @ a["pb"])) @ a["pc"] for v in doms])
    y = np.array([swiglu(x, a["ws1"], a["ws3"], a["ws2"]) for x in a["x"]]).reshape(d["T"], d["D"])
    out = {"y": y, "routing": np.zeros((d["T"], E)), "y_ext": y.copy(), "routing_ext": np.zeros((d["T"], E + 1))}
    for t, x in enumerate(a["x"]):
        out["y"][t] += layer(x, columns[:E], d["K"], experts, out["routing"][t])
        out["y_ext"][t] += layer(x, columns, d["K"], experts, out["routing_ext"][t])
    return out
