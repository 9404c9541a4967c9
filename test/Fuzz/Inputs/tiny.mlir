func.func @main(%x: tensor<?xf32> {moe.name = "x"}) -> (tensor<?xf32> {moe.name = "y"}) {
  %y = arith.addf %x, %x : tensor<?xf32>
  return %y : tensor<?xf32>
}
