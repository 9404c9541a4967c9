// Two slices at an offset that a chain of ifs computes: upstream's value bounds of scf.if compare both branches of every
// if with constraints of their own, which takes minutes for this chain. With those of lib/InitAll the chain is
// as cheap as it is long, and slices at one offset are still known to be one.
// RUN: timeout 60 moe-opt %s --one-shot-bufferize="bufferize-function-boundaries=true" | FileCheck %s

// CHECK-LABEL: func.func @chain
// CHECK-COUNT-159: scf.if
// CHECK: %[[LAST:.*]] = scf.if
// CHECK: memref.subview %{{.*}}[%[[LAST]]] [4] [1]
// CHECK-NOT: memref.alloc
// CHECK: return
func.func @chain(%t: tensor<?xf32>, %c: i1, %start: index, %f: f32) -> tensor<?xf32> {
  %c1 = arith.constant 1 : index
  %o0 = scf.if %c -> index {
    %x = arith.addi %start, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %start : index
  }
  %o1 = scf.if %c -> index {
    %x = arith.addi %o0, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o0 : index
  }
  %o2 = scf.if %c -> index {
    %x = arith.addi %o1, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o1 : index
  }
  %o3 = scf.if %c -> index {
    %x = arith.addi %o2, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o2 : index
  }
  %o4 = scf.if %c -> index {
    %x = arith.addi %o3, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o3 : index
  }
  %o5 = scf.if %c -> index {
    %x = arith.addi %o4, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o4 : index
  }
  %o6 = scf.if %c -> index {
    %x = arith.addi %o5, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o5 : index
  }
  %o7 = scf.if %c -> index {
    %x = arith.addi %o6, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o6 : index
  }
  %o8 = scf.if %c -> index {
    %x = arith.addi %o7, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o7 : index
  }
  %o9 = scf.if %c -> index {
    %x = arith.addi %o8, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o8 : index
  }
  %o10 = scf.if %c -> index {
    %x = arith.addi %o9, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o9 : index
  }
  %o11 = scf.if %c -> index {
    %x = arith.addi %o10, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o10 : index
  }
  %o12 = scf.if %c -> index {
    %x = arith.addi %o11, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o11 : index
  }
  %o13 = scf.if %c -> index {
    %x = arith.addi %o12, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o12 : index
  }
  %o14 = scf.if %c -> index {
    %x = arith.addi %o13, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o13 : index
  }
  %o15 = scf.if %c -> index {
    %x = arith.addi %o14, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o14 : index
  }
  %o16 = scf.if %c -> index {
    %x = arith.addi %o15, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o15 : index
  }
  %o17 = scf.if %c -> index {
    %x = arith.addi %o16, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o16 : index
  }
  %o18 = scf.if %c -> index {
    %x = arith.addi %o17, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o17 : index
  }
  %o19 = scf.if %c -> index {
    %x = arith.addi %o18, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o18 : index
  }
  %o20 = scf.if %c -> index {
    %x = arith.addi %o19, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o19 : index
  }
  %o21 = scf.if %c -> index {
    %x = arith.addi %o20, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o20 : index
  }
  %o22 = scf.if %c -> index {
    %x = arith.addi %o21, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o21 : index
  }
  %o23 = scf.if %c -> index {
    %x = arith.addi %o22, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o22 : index
  }
  %o24 = scf.if %c -> index {
    %x = arith.addi %o23, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o23 : index
  }
  %o25 = scf.if %c -> index {
    %x = arith.addi %o24, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o24 : index
  }
  %o26 = scf.if %c -> index {
    %x = arith.addi %o25, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o25 : index
  }
  %o27 = scf.if %c -> index {
    %x = arith.addi %o26, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o26 : index
  }
  %o28 = scf.if %c -> index {
    %x = arith.addi %o27, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o27 : index
  }
  %o29 = scf.if %c -> index {
    %x = arith.addi %o28, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o28 : index
  }
  %o30 = scf.if %c -> index {
    %x = arith.addi %o29, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o29 : index
  }
  %o31 = scf.if %c -> index {
    %x = arith.addi %o30, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o30 : index
  }
  %o32 = scf.if %c -> index {
    %x = arith.addi %o31, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o31 : index
  }
  %o33 = scf.if %c -> index {
    %x = arith.addi %o32, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o32 : index
  }
  %o34 = scf.if %c -> index {
    %x = arith.addi %o33, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o33 : index
  }
  %o35 = scf.if %c -> index {
    %x = arith.addi %o34, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o34 : index
  }
  %o36 = scf.if %c -> index {
    %x = arith.addi %o35, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o35 : index
  }
  %o37 = scf.if %c -> index {
    %x = arith.addi %o36, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o36 : index
  }
  %o38 = scf.if %c -> index {
    %x = arith.addi %o37, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o37 : index
  }
  %o39 = scf.if %c -> index {
    %x = arith.addi %o38, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o38 : index
  }
  %o40 = scf.if %c -> index {
    %x = arith.addi %o39, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o39 : index
  }
  %o41 = scf.if %c -> index {
    %x = arith.addi %o40, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o40 : index
  }
  %o42 = scf.if %c -> index {
    %x = arith.addi %o41, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o41 : index
  }
  %o43 = scf.if %c -> index {
    %x = arith.addi %o42, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o42 : index
  }
  %o44 = scf.if %c -> index {
    %x = arith.addi %o43, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o43 : index
  }
  %o45 = scf.if %c -> index {
    %x = arith.addi %o44, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o44 : index
  }
  %o46 = scf.if %c -> index {
    %x = arith.addi %o45, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o45 : index
  }
  %o47 = scf.if %c -> index {
    %x = arith.addi %o46, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o46 : index
  }
  %o48 = scf.if %c -> index {
    %x = arith.addi %o47, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o47 : index
  }
  %o49 = scf.if %c -> index {
    %x = arith.addi %o48, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o48 : index
  }
  %o50 = scf.if %c -> index {
    %x = arith.addi %o49, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o49 : index
  }
  %o51 = scf.if %c -> index {
    %x = arith.addi %o50, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o50 : index
  }
  %o52 = scf.if %c -> index {
    %x = arith.addi %o51, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o51 : index
  }
  %o53 = scf.if %c -> index {
    %x = arith.addi %o52, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o52 : index
  }
  %o54 = scf.if %c -> index {
    %x = arith.addi %o53, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o53 : index
  }
  %o55 = scf.if %c -> index {
    %x = arith.addi %o54, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o54 : index
  }
  %o56 = scf.if %c -> index {
    %x = arith.addi %o55, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o55 : index
  }
  %o57 = scf.if %c -> index {
    %x = arith.addi %o56, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o56 : index
  }
  %o58 = scf.if %c -> index {
    %x = arith.addi %o57, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o57 : index
  }
  %o59 = scf.if %c -> index {
    %x = arith.addi %o58, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o58 : index
  }
  %o60 = scf.if %c -> index {
    %x = arith.addi %o59, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o59 : index
  }
  %o61 = scf.if %c -> index {
    %x = arith.addi %o60, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o60 : index
  }
  %o62 = scf.if %c -> index {
    %x = arith.addi %o61, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o61 : index
  }
  %o63 = scf.if %c -> index {
    %x = arith.addi %o62, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o62 : index
  }
  %o64 = scf.if %c -> index {
    %x = arith.addi %o63, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o63 : index
  }
  %o65 = scf.if %c -> index {
    %x = arith.addi %o64, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o64 : index
  }
  %o66 = scf.if %c -> index {
    %x = arith.addi %o65, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o65 : index
  }
  %o67 = scf.if %c -> index {
    %x = arith.addi %o66, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o66 : index
  }
  %o68 = scf.if %c -> index {
    %x = arith.addi %o67, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o67 : index
  }
  %o69 = scf.if %c -> index {
    %x = arith.addi %o68, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o68 : index
  }
  %o70 = scf.if %c -> index {
    %x = arith.addi %o69, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o69 : index
  }
  %o71 = scf.if %c -> index {
    %x = arith.addi %o70, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o70 : index
  }
  %o72 = scf.if %c -> index {
    %x = arith.addi %o71, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o71 : index
  }
  %o73 = scf.if %c -> index {
    %x = arith.addi %o72, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o72 : index
  }
  %o74 = scf.if %c -> index {
    %x = arith.addi %o73, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o73 : index
  }
  %o75 = scf.if %c -> index {
    %x = arith.addi %o74, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o74 : index
  }
  %o76 = scf.if %c -> index {
    %x = arith.addi %o75, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o75 : index
  }
  %o77 = scf.if %c -> index {
    %x = arith.addi %o76, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o76 : index
  }
  %o78 = scf.if %c -> index {
    %x = arith.addi %o77, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o77 : index
  }
  %o79 = scf.if %c -> index {
    %x = arith.addi %o78, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o78 : index
  }
  %o80 = scf.if %c -> index {
    %x = arith.addi %o79, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o79 : index
  }
  %o81 = scf.if %c -> index {
    %x = arith.addi %o80, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o80 : index
  }
  %o82 = scf.if %c -> index {
    %x = arith.addi %o81, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o81 : index
  }
  %o83 = scf.if %c -> index {
    %x = arith.addi %o82, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o82 : index
  }
  %o84 = scf.if %c -> index {
    %x = arith.addi %o83, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o83 : index
  }
  %o85 = scf.if %c -> index {
    %x = arith.addi %o84, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o84 : index
  }
  %o86 = scf.if %c -> index {
    %x = arith.addi %o85, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o85 : index
  }
  %o87 = scf.if %c -> index {
    %x = arith.addi %o86, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o86 : index
  }
  %o88 = scf.if %c -> index {
    %x = arith.addi %o87, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o87 : index
  }
  %o89 = scf.if %c -> index {
    %x = arith.addi %o88, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o88 : index
  }
  %o90 = scf.if %c -> index {
    %x = arith.addi %o89, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o89 : index
  }
  %o91 = scf.if %c -> index {
    %x = arith.addi %o90, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o90 : index
  }
  %o92 = scf.if %c -> index {
    %x = arith.addi %o91, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o91 : index
  }
  %o93 = scf.if %c -> index {
    %x = arith.addi %o92, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o92 : index
  }
  %o94 = scf.if %c -> index {
    %x = arith.addi %o93, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o93 : index
  }
  %o95 = scf.if %c -> index {
    %x = arith.addi %o94, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o94 : index
  }
  %o96 = scf.if %c -> index {
    %x = arith.addi %o95, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o95 : index
  }
  %o97 = scf.if %c -> index {
    %x = arith.addi %o96, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o96 : index
  }
  %o98 = scf.if %c -> index {
    %x = arith.addi %o97, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o97 : index
  }
  %o99 = scf.if %c -> index {
    %x = arith.addi %o98, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o98 : index
  }
  %o100 = scf.if %c -> index {
    %x = arith.addi %o99, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o99 : index
  }
  %o101 = scf.if %c -> index {
    %x = arith.addi %o100, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o100 : index
  }
  %o102 = scf.if %c -> index {
    %x = arith.addi %o101, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o101 : index
  }
  %o103 = scf.if %c -> index {
    %x = arith.addi %o102, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o102 : index
  }
  %o104 = scf.if %c -> index {
    %x = arith.addi %o103, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o103 : index
  }
  %o105 = scf.if %c -> index {
    %x = arith.addi %o104, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o104 : index
  }
  %o106 = scf.if %c -> index {
    %x = arith.addi %o105, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o105 : index
  }
  %o107 = scf.if %c -> index {
    %x = arith.addi %o106, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o106 : index
  }
  %o108 = scf.if %c -> index {
    %x = arith.addi %o107, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o107 : index
  }
  %o109 = scf.if %c -> index {
    %x = arith.addi %o108, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o108 : index
  }
  %o110 = scf.if %c -> index {
    %x = arith.addi %o109, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o109 : index
  }
  %o111 = scf.if %c -> index {
    %x = arith.addi %o110, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o110 : index
  }
  %o112 = scf.if %c -> index {
    %x = arith.addi %o111, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o111 : index
  }
  %o113 = scf.if %c -> index {
    %x = arith.addi %o112, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o112 : index
  }
  %o114 = scf.if %c -> index {
    %x = arith.addi %o113, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o113 : index
  }
  %o115 = scf.if %c -> index {
    %x = arith.addi %o114, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o114 : index
  }
  %o116 = scf.if %c -> index {
    %x = arith.addi %o115, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o115 : index
  }
  %o117 = scf.if %c -> index {
    %x = arith.addi %o116, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o116 : index
  }
  %o118 = scf.if %c -> index {
    %x = arith.addi %o117, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o117 : index
  }
  %o119 = scf.if %c -> index {
    %x = arith.addi %o118, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o118 : index
  }
  %o120 = scf.if %c -> index {
    %x = arith.addi %o119, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o119 : index
  }
  %o121 = scf.if %c -> index {
    %x = arith.addi %o120, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o120 : index
  }
  %o122 = scf.if %c -> index {
    %x = arith.addi %o121, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o121 : index
  }
  %o123 = scf.if %c -> index {
    %x = arith.addi %o122, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o122 : index
  }
  %o124 = scf.if %c -> index {
    %x = arith.addi %o123, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o123 : index
  }
  %o125 = scf.if %c -> index {
    %x = arith.addi %o124, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o124 : index
  }
  %o126 = scf.if %c -> index {
    %x = arith.addi %o125, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o125 : index
  }
  %o127 = scf.if %c -> index {
    %x = arith.addi %o126, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o126 : index
  }
  %o128 = scf.if %c -> index {
    %x = arith.addi %o127, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o127 : index
  }
  %o129 = scf.if %c -> index {
    %x = arith.addi %o128, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o128 : index
  }
  %o130 = scf.if %c -> index {
    %x = arith.addi %o129, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o129 : index
  }
  %o131 = scf.if %c -> index {
    %x = arith.addi %o130, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o130 : index
  }
  %o132 = scf.if %c -> index {
    %x = arith.addi %o131, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o131 : index
  }
  %o133 = scf.if %c -> index {
    %x = arith.addi %o132, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o132 : index
  }
  %o134 = scf.if %c -> index {
    %x = arith.addi %o133, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o133 : index
  }
  %o135 = scf.if %c -> index {
    %x = arith.addi %o134, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o134 : index
  }
  %o136 = scf.if %c -> index {
    %x = arith.addi %o135, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o135 : index
  }
  %o137 = scf.if %c -> index {
    %x = arith.addi %o136, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o136 : index
  }
  %o138 = scf.if %c -> index {
    %x = arith.addi %o137, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o137 : index
  }
  %o139 = scf.if %c -> index {
    %x = arith.addi %o138, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o138 : index
  }
  %o140 = scf.if %c -> index {
    %x = arith.addi %o139, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o139 : index
  }
  %o141 = scf.if %c -> index {
    %x = arith.addi %o140, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o140 : index
  }
  %o142 = scf.if %c -> index {
    %x = arith.addi %o141, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o141 : index
  }
  %o143 = scf.if %c -> index {
    %x = arith.addi %o142, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o142 : index
  }
  %o144 = scf.if %c -> index {
    %x = arith.addi %o143, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o143 : index
  }
  %o145 = scf.if %c -> index {
    %x = arith.addi %o144, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o144 : index
  }
  %o146 = scf.if %c -> index {
    %x = arith.addi %o145, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o145 : index
  }
  %o147 = scf.if %c -> index {
    %x = arith.addi %o146, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o146 : index
  }
  %o148 = scf.if %c -> index {
    %x = arith.addi %o147, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o147 : index
  }
  %o149 = scf.if %c -> index {
    %x = arith.addi %o148, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o148 : index
  }
  %o150 = scf.if %c -> index {
    %x = arith.addi %o149, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o149 : index
  }
  %o151 = scf.if %c -> index {
    %x = arith.addi %o150, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o150 : index
  }
  %o152 = scf.if %c -> index {
    %x = arith.addi %o151, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o151 : index
  }
  %o153 = scf.if %c -> index {
    %x = arith.addi %o152, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o152 : index
  }
  %o154 = scf.if %c -> index {
    %x = arith.addi %o153, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o153 : index
  }
  %o155 = scf.if %c -> index {
    %x = arith.addi %o154, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o154 : index
  }
  %o156 = scf.if %c -> index {
    %x = arith.addi %o155, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o155 : index
  }
  %o157 = scf.if %c -> index {
    %x = arith.addi %o156, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o156 : index
  }
  %o158 = scf.if %c -> index {
    %x = arith.addi %o157, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o157 : index
  }
  %o159 = scf.if %c -> index {
    %x = arith.addi %o158, %c1 : index
    scf.yield %x : index
  } else {
    scf.yield %o158 : index
  }
  %s = tensor.extract_slice %t[%o159] [4] [1] : tensor<?xf32> to tensor<4xf32>
  %u = linalg.fill ins(%f : f32) outs(%s : tensor<4xf32>) -> tensor<4xf32>
  %r = tensor.insert_slice %u into %t[%o159] [4] [1] : tensor<4xf32> into tensor<?xf32>
  return %r : tensor<?xf32>
}
