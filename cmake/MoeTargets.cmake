# Small wrappers so that a folder's CMakeLists.txt reads as a list of its files.

# All generated headers; every library depends on it, so no file is compiled before its .inc exists.
add_custom_target(moe-headers)

# Without its time stamp the precompiled header is the same file in every build tree, and ccache can share it.
add_compile_options("SHELL:-Xclang -fno-pch-timestamp")

# The heavy upstream headers, parsed once. Libraries reuse it unless they say NO_PCH. CMake's REUSE_FROM passes absolute paths
# behind -Xclang, which ccache cannot make relative (nothing would be shared between clones): moe_use_pch uses the driver's
# option instead.
file(WRITE ${CMAKE_BINARY_DIR}/MoePch.cpp.in "// carries the precompiled header\n")
configure_file(${CMAKE_BINARY_DIR}/MoePch.cpp.in ${CMAKE_BINARY_DIR}/MoePch.cpp COPYONLY)
add_library(MoePch OBJECT ${CMAKE_BINARY_DIR}/MoePch.cpp)
target_include_directories(MoePch PRIVATE ${CMAKE_SOURCE_DIR}/cmake)
target_precompile_headers(MoePch PRIVATE <MoePch.h>)
set(moe_pch ${CMAKE_BINARY_DIR}/CMakeFiles/MoePch.dir/cmake_pch.hxx.pch)

function(moe_use_pch name)
  add_dependencies(${name} MoePch)
  get_target_property(sources ${name} SOURCES)
  set_source_files_properties(${sources} PROPERTIES OBJECT_DEPENDS ${moe_pch})
  target_compile_options(${name} PRIVATE "SHELL:$<$<COMPILE_LANGUAGE:CXX>:-Winvalid-pch -include-pch ${moe_pch}>")
endfunction()

# A precompiled header holds absolute paths, so its bytes differ between clones. With CCACHE_PCH_EXTSUM, ccache takes
# this sum in their place: what the header is made of.
file(SHA256 ${CMAKE_SOURCE_DIR}/cmake/MoePch.h moe_pch_sum)
string(SHA256 moe_pch_sum "${moe_pch_sum} ${LLVM_PACKAGE_VERSION} ${CMAKE_CXX_COMPILER_VERSION} ${CMAKE_CXX_FLAGS} ${CMAKE_BUILD_TYPE} ${MOE_SANITIZE}")
file(WRITE ${CMAKE_BINARY_DIR}/CMakeFiles/MoePch.dir/cmake_pch.hxx.pch.sum "${moe_pch_sum}\n")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/cmake/MoePch.h)

# moe_tablegen(<target> <file.td> <out> <args> [<out> <args>]...): mlir-tblgen runs, joined to moe-headers.
function(moe_tablegen target td)
  set(LLVM_TARGET_DEFINITIONS ${td})
  set(rest ${ARGN})
  while(rest)
    list(POP_FRONT rest out flags)
    separate_arguments(flags)
    mlir_tablegen(${out} ${flags} -I${CMAKE_SOURCE_DIR}/dialects)
  endwhile()
  add_public_tablegen_target(${target})
  add_dependencies(moe-headers ${target})
endfunction()

# moe_library(<name> SOURCES ... [LINK ...] [NO_PCH]): a static library of the compiler.
function(moe_library name)
  cmake_parse_arguments(ARG "NO_PCH" "" "SOURCES;LINK" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  add_dependencies(${name} moe-headers)
  target_link_libraries(${name} PUBLIC ${ARG_LINK})
  if(NOT ARG_NO_PCH)
    moe_use_pch(${name})
  endif()
endfunction()

# moe_tool(<name> SOURCES ... LINK ...): a compiler tool, linked with the MLIR and LLVM shared libraries.
function(moe_tool name)
  cmake_parse_arguments(ARG "NO_PCH" "" "SOURCES;LINK" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  add_dependencies(${name} moe-headers)
  target_link_libraries(${name} PRIVATE ${ARG_LINK} MLIR LLVM)
  if(NOT ARG_NO_PCH)
    moe_use_pch(${name})
  endif()
endfunction()
