// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Mixture of Weak & Strong Experts on Graphs
//
// A cheap expert answers when it is confident enough (compared with a random number), a graph network otherwise. The
// confidence is the variance or the entropy of the cheap answer.
//
// Ops: route with a mask, apply with a coupled capture: the strong expert's last layer runs only on the nodes that need
// it (rows by token index, the neighbours' states captured).

!x = tensor<?x24xf32>   !h = tensor<?x20xf32>   !c = tensor<?x5xf32>   !adj = tensor<?x?xi1>   !a = tensor<?x?xf32>
!t = tensor<?xf32>   !b = tensor<?xi1>   !one = tensor<?x1xf32>   !m1 = tensor<?x1xi1>   !r = !moe.routing<?x1xf32>
!g2 = tensor<20x5xf32>

func.func @main(%x: !x {moe.name = "x"}, %adj: !adj {moe.name = "adj"}, %u: !t {moe.name = "u"},
    %a1: tensor<24x20xf32> {moe.name = "a1"}, %ab1: tensor<20xf32> {moe.name = "ab1"}, %a2: !g2 {moe.name = "a2"},
    %ab2: tensor<5xf32> {moe.name = "ab2"}, %g1: tensor<24x20xf32> {moe.name = "g1"},
    %gb1: tensor<20xf32> {moe.name = "gb1"}, %g2: !g2 {moe.name = "g2"}, %gb2: tensor<5xf32> {moe.name = "gb2"})
    -> (!c {moe.name = "out_var"}, !b {moe.name = "weak_var"}, !c {moe.name = "out_ent"}, !b {moe.name = "weak_ent"},
        !c {moe.name = "out_mix"}) {
  %c0 = arith.constant 0 : index   %c1 = arith.constant 1 : index   %f0 = arith.constant 0.0 : f32
  %f1 = arith.constant 1.0 : f32   %five = arith.constant 0.2 : f32   %most = arith.constant 0.16 : f32
  %ln5 = arith.constant 1.6094379124341003 : f32   %true = arith.constant true
  %t = tensor.dim %x, %c0 : !x   %zh = tensor.splat %f0[%t] : !h   %zc = tensor.splat %f0[%t] : !c
  %za = tensor.splat %f0[%t, %t] : !a   %zx = tensor.splat %f0[%t] : !x   %zt = tensor.splat %f0[%t] : !t
  %ones = tensor.splat %f1[%t] : !t
  %b1 = linalg.broadcast ins(%ab1 : tensor<20xf32>) outs(%zh : !h) dimensions = [0]
  %b2 = linalg.broadcast ins(%ab2 : tensor<5xf32>) outs(%zc : !c) dimensions = [0]
  %b3 = linalg.broadcast ins(%gb1 : tensor<20xf32>) outs(%zh : !h) dimensions = [0]
  %u1 = linalg.matmul ins(%x, %a1 : !x, tensor<24x20xf32>) outs(%b1 : !h) -> !h
  %v1 = arith.maximumf %u1, %zh : !h
  %w2 = linalg.matmul ins(%v1, %a2 : !h, !g2) outs(%b2 : !c) -> !c
  %p = linalg.softmax dimension(1) ins(%w2 : !c) outs(%zc : !c) -> !c
  // The mean over a node and its neighbours is a product with a matrix.
  %with_self = linalg.map ins(%adj : !adj) outs(%za : !a) (%near: i1, %init: f32) {
    %i = linalg.index 0 : index   %j = linalg.index 1 : index   %self = arith.cmpi eq, %i, %j : index
    %in = arith.ori %near, %self : i1   %o = arith.uitofp %in : i1 to f32
    linalg.yield %o : f32
  }
  %degree = linalg.reduce {arith.addf} ins(%with_self : !a) outs(%zt : !t) dimensions = [1]
  %degrees = linalg.broadcast ins(%degree : !t) outs(%za : !a) dimensions = [1]
  %mean = arith.divf %with_self, %degrees : !a
  %m = linalg.matmul ins(%mean, %x : !a, !x) outs(%zx : !x) -> !x
  %s1 = linalg.matmul ins(%m, %g1 : !x, tensor<24x20xf32>) outs(%b3 : !h) -> !h
  %hid = arith.maximumf %s1, %zh : !h
  // Confidences.
  %total = linalg.reduce {arith.addf} ins(%p : !c) outs(%zt : !t) dimensions = [1]
  %fifths = tensor.splat %five[%t] : !t   %avg = arith.mulf %total, %fifths : !t
  %avgs = linalg.broadcast ins(%avg : !t) outs(%zc : !c) dimensions = [1]   %gap = arith.subf %p, %avgs : !c
  %gg = arith.mulf %gap, %gap : !c
  %sq = linalg.reduce {arith.addf} ins(%gg : !c) outs(%zt : !t) dimensions = [1]   %mosts = tensor.splat %most[%t] : !t
  %var = arith.mulf %sq, %fifths : !t   %ratio = arith.divf %var, %mosts : !t   %conf_var = math.sqrt %ratio : !t
  %plogp = linalg.map ins(%p : !c) outs(%zc : !c) (%v: f32, %init: f32) {
    %lv = math.log %v : f32   %vl = arith.mulf %v, %lv : f32   %none = arith.cmpf oeq, %v, %f0 : f32
    %o = arith.select %none, %f0, %vl : f32
    linalg.yield %o : f32
  }
  %negent = linalg.reduce {arith.addf} ins(%plogp : !c) outs(%zt : !t) dimensions = [1]
  %lns = tensor.splat %ln5[%t] : !t   %rel = arith.divf %negent, %lns : !t   %conf_ent = arith.addf %ones, %rel : !t
  %weak_var = arith.cmpf olt, %u, %conf_var : !t   %weak_ent = arith.cmpf olt, %u, %conf_ent : !t
  // The strong answer where it is needed; the joint variant needs it everywhere.
  %yes = tensor.splat %true[%t] : !b   %need_var = arith.xori %weak_var, %yes : !b
  %need_ent = arith.xori %weak_ent, %yes : !b
  %q = func.call @strong(%mean, %hid, %g2, %gb2, %yes) : (!a, !h, !g2, tensor<5xf32>, !b) -> !c
  %qv = func.call @strong(%mean, %hid, %g2, %gb2, %need_var) : (!a, !h, !g2, tensor<5xf32>, !b) -> !c
  %qe = func.call @strong(%mean, %hid, %g2, %gb2, %need_ent) : (!a, !h, !g2, tensor<5xf32>, !b) -> !c
  %out_var = func.call @choose(%p, %qv, %weak_var) : (!c, !c, !b) -> !c
  %out_ent = func.call @choose(%p, %qe, %weak_ent) : (!c, !c, !b) -> !c
  %cv = linalg.broadcast ins(%conf_var : !t) outs(%zc : !c) dimensions = [1]   %own = arith.mulf %p, %cv : !c
  %rest1 = arith.subf %ones, %conf_var : !t   %rests = linalg.broadcast ins(%rest1 : !t) outs(%zc : !c) dimensions = [1]
  %other = arith.mulf %q, %rests : !c   %out_mix = arith.addf %own, %other : !c
  return %out_var, %weak_var, %out_ent, %weak_ent, %out_mix : !c, !b, !c, !b, !c
}

// softmax(mean hid g2 + gb2) for the nodes in `need`, zero elsewhere.
func.func private @strong(%mean: !a, %hid: !h, %g2: !g2, %gb2: tensor<5xf32>, %need: !b) -> !c {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %t = tensor.dim %need, %c0 : !b   %need1 = tensor.expand_shape %need [[0, 1]] output_shape [%t, 1] : !b into !m1
  %one = tensor.splat %f1[%t] : !one
  %r = moe.route %one mask(%need1 : !m1) : !one
  %q = moe.apply %r rows(%mean) out(sum) : !r, !a -> !c {
  ^bb0(%rows: !a):
    %n = tensor.dim %rows, %c0 : !a   %zh = tensor.splat %f0[%n] : !h   %zc = tensor.splat %f0[%n] : !c
    %bias = linalg.broadcast ins(%gb2 : tensor<5xf32>) outs(%zc : !c) dimensions = [0]
    %near = linalg.matmul ins(%rows, %hid : !a, !h) outs(%zh : !h) -> !h
    %l = linalg.matmul ins(%near, %g2 : !h, !g2) outs(%bias : !c) -> !c
    %o = linalg.softmax dimension(1) ins(%l : !c) outs(%zc : !c) -> !c
    moe.yield %o : !c
  }
  return %q : !c
}

func.func private @choose(%p: !c, %q: !c, %weak: !b) -> !c {
  %c0 = arith.constant 0 : index   %false = arith.constant false
  %t = tensor.dim %p, %c0 : !c   %no = tensor.splat %false[%t] : tensor<?x5xi1>
  %weaks = linalg.broadcast ins(%weak : !b) outs(%no : tensor<?x5xi1>) dimensions = [1]
  %o = arith.select %weaks, %p, %q : tensor<?x5xi1>, !c
  return %o : !c
}
