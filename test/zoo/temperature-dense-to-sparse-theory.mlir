// RUN: %python %src/test/zoo/run_zoo.py %s --work %t
//
// Is Temperature Sample Efficient for Softmax Gaussian Mixture of Experts?
//
// A mixture of Gaussian regressions: the gate is a softmax of sigmoids at a temperature that is an argument; the
// results are the mean and the logarithm of the density.
//
// Ops: route, normalize, to_dense; the experts are affine functions, all of them in one product.

!x = tensor<?x18xf32>   !e = tensor<?x5xf32>   !t = tensor<?xf32>   !p = tensor<5xf32>

func.func @main(%x: !x {moe.name = "x"}, %target: !t {moe.name = "target"}, %tau: tensor<f32> {moe.name = "tau"},
    %beta1: tensor<18x5xf32> {moe.name = "beta1"}, %beta0: !p {moe.name = "beta0"},
    %a: tensor<18x5xf32> {moe.name = "a"}, %b: !p {moe.name = "b"}, %log_var: !p {moe.name = "log_var"})
    -> (!t {moe.name = "mean"}, !t {moe.name = "log_density"}, !e {moe.name = "routing"}) {
  %c0 = arith.constant 0 : index   %f0 = arith.constant 0.0 : f32   %f1 = arith.constant 1.0 : f32
  %minf = arith.constant 0xFF800000 : f32   %half = arith.constant 0.5 : f32
  %halflog = arith.constant 0.91893853320467274 : f32
  %t = tensor.dim %x, %c0 : !x   %ze = tensor.splat %f0[%t] : !e   %zt = tensor.splat %f0[%t] : !t
  %lows = tensor.splat %minf[%t] : !t
  %b0 = linalg.broadcast ins(%beta0 : tensor<5xf32>) outs(%ze : !e) dimensions = [0]
  %bias = linalg.broadcast ins(%b : tensor<5xf32>) outs(%ze : !e) dimensions = [0]
  %l = linalg.matmul ins(%x, %beta1 : !x, tensor<18x5xf32>) outs(%b0 : !e) -> !e
  %ones = tensor.splat %f1[%t] : !e   %s_n = arith.negf %l : !e   %s_e = math.exp %s_n : !e
  %s_d = arith.addf %s_e, %ones : !e   %s = arith.divf %ones, %s_d : !e
  %tau_v = tensor.extract %tau[] : tensor<f32>   %taus = tensor.splat %tau_v[%t] : !e
  %sharp = arith.divf %s, %taus : !e
  %all = moe.route %sharp : !e   %g = moe.normalize %all by(softmax) : !moe.routing<?x5xf32>
  %routing = moe.to_dense %g : !moe.routing<?x5xf32>
  %mu = linalg.matmul ins(%x, %a : !x, tensor<18x5xf32>) outs(%bias : !e) -> !e
  %parts = arith.mulf %routing, %mu : !e
  %mean = linalg.reduce {arith.addf} ins(%parts : !e) outs(%zt : !t) dimensions = [1]
  // ln of the pairs' densities, then the logarithm of a sum of exponentials.
  %ln = linalg.map ins(%routing, %mu : !e, !e) outs(%ze : !e) (%w: f32, %m: f32, %init: f32) {
    %i = linalg.index 0 : index   %j = linalg.index 1 : index   %yt = tensor.extract %target[%i] : !t
    %lv = tensor.extract %log_var[%j] : !p
    %d = arith.subf %yt, %m : f32   %dd = arith.mulf %d, %d : f32   %v = math.exp %lv : f32
    %q = arith.divf %dd, %v : f32   %ql = arith.addf %q, %lv : f32   %h = arith.mulf %ql, %half : f32
    %lw = math.log %w : f32   %a0 = arith.subf %lw, %h : f32   %o = arith.subf %a0, %halflog : f32
    linalg.yield %o : f32
  }
  %top = linalg.reduce {arith.maximumf} ins(%ln : !e) outs(%lows : !t) dimensions = [1]
  %tops = linalg.broadcast ins(%top : !t) outs(%ze : !e) dimensions = [1]   %rest = arith.subf %ln, %tops : !e
  %ex_ = math.exp %rest : !e
  %sum = linalg.reduce {arith.addf} ins(%ex_ : !e) outs(%zt : !t) dimensions = [1]   %ls = math.log %sum : !t
  %log_density = arith.addf %top, %ls : !t
  return %mean, %log_density, %routing : !t, !t, !e
}
