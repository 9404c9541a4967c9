import numpy as np
from common import argmax, ceil_div, margin, relu, sigmoid

PERMUTES = ["F"]
TIES = False  # any of several best assignments is right


def balanced(s, capacity):
    """The best assignment by the Hungarian method on `capacity` copies of every expert; reports how unique it is."""
    T, E = s.shape
    cost = -np.repeat(s, capacity, axis=1)
    n, m = cost.shape
    u, v, owner = np.zeros(n + 1), np.zeros(m + 1), np.zeros(m + 1, int)
    for i in range(1, n + 1):
        owner[0], j, least, used, way = i, 0, np.full(m + 1, np.inf), np.zeros(m + 1, bool), np.zeros(m + 1, int)
        while True:
            used[j] = True
            row = owner[j]
            free = ~used[1:]
            reduced = cost[row - 1] - u[row] - v[1:]
            better = free & (reduced < least[1:])
            least[1:][better], way[1:][better] = reduced[better], j
            nxt = 1 + np.flatnonzero(free)[np.argmin(least[1:][free])]
            delta = least[nxt]
            u[owner[used]] += delta
            v[used] -= delta
            least[~used] -= delta
            j = nxt
            if owner[j] == 0:
                break
        while j:
            owner[j] = owner[way[j]]
            j = way[j]
    assign = np.zeros(T, int)
    for j in range(1, m + 1):
        if owner[j]:
            assign[owner[j] - 1] = (j - 1) // capacity
    # Any other assignment is this one plus a cycle of moves between experts, or a chain of moves that ends where there is room.
    move = np.full((E, E), np.inf)
    for t in range(T):
        move[assign[t]] = np.minimum(move[assign[t]], s[t, assign[t]] - s[t])
    np.fill_diagonal(move, np.inf)
    for k in range(E):
        move = np.minimum(move, move[:, k : k + 1] + move[k])
    worse = np.concatenate([np.diag(move), (move + np.where(np.eye(E), np.inf, 0.0))[:, np.bincount(assign, minlength=E) < capacity].ravel()])
    margin(max(worse.min(initial=np.inf), 1e-9))
    return assign


def layer(x, s, a):
    if s.shape[0] == 0:
        return x
    normed = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
    return np.array([x[t] + sigmoid(s[t, e]) * (relu(normed[t] @ a["w1"][e]) @ a["w2"][e]) for t, e in enumerate(a["chosen"])])


def reference(a, d):
    x, s = a["x"], a["x"] @ a["wa"].T
    bal = balanced(s, ceil_div(d["T"], d["E"])) if d["T"] else np.zeros(0, int)
    greedy = np.array([argmax(v) for v in s], int)
    return {"y_bal": layer(x, s, a | {"chosen": bal}), "assign_bal": bal, "y_greedy": layer(x, s, a | {"chosen": greedy}), "assign_greedy": greedy}
