# Small wrappers so that a folder's CMakeLists.txt reads as a list of its files.

# All generated headers; every library depends on it, so no file is compiled before its .inc exists.
add_custom_target(moe-headers)

# Without its time stamp the precompiled header is the same file in every build tree, and ccache can share it.
add_compile_options("SHELL:-Xclang -fno-pch-timestamp")

# The heavy upstream headers, parsed once. CMake's REUSE_FROM passes absolute paths behind -Xclang, which ccache cannot make
# relative (nothing would be shared between clones): moe_use_pch uses the driver's option instead.
file(WRITE ${CMAKE_BINARY_DIR}/MoePch.cpp.in "// carries a precompiled header\n")

# moe_define_pch(<name>): the target <name> carries cmake/<name>.h, precompiled.
function(moe_define_pch name)
  configure_file(${CMAKE_BINARY_DIR}/MoePch.cpp.in ${CMAKE_BINARY_DIR}/${name}.cpp COPYONLY)
  add_library(${name} OBJECT ${CMAKE_BINARY_DIR}/${name}.cpp)
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/cmake)
  target_precompile_headers(${name} PRIVATE <${name}.h>)
  # A precompiled header holds absolute paths, so its bytes differ between clones. With CCACHE_PCH_EXTSUM, ccache takes this
  # sum in their place: what the header is made of.
  file(GLOB headers ${CMAKE_SOURCE_DIR}/cmake/*Pch.h)
  set(sum "${LLVM_PACKAGE_VERSION} ${CMAKE_CXX_COMPILER_VERSION} ${CMAKE_CXX_FLAGS} ${CMAKE_BUILD_TYPE} ${MOE_SANITIZE}")
  file(SHA256 ${CMAKE_SOURCE_DIR}/cmake/${name}.h header_sum)
  set(sum "${header_sum} ${sum}")
  if(NOT name STREQUAL MoePch)
    file(SHA256 ${CMAKE_SOURCE_DIR}/cmake/MoePch.h base_sum)
    set(sum "${sum} ${base_sum}")
  endif()
  string(SHA256 sum "${sum}")
  file(WRITE ${CMAKE_BINARY_DIR}/CMakeFiles/${name}.dir/cmake_pch.hxx.pch.sum "${sum}\n")
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${headers})
endfunction()
moe_define_pch(MoePch)
moe_define_pch(MoeGpuPch)

# moe_use_pch(<target> <name>): the files of a target begin with a precompiled header.
function(moe_use_pch target name)
  set(pch ${CMAKE_BINARY_DIR}/CMakeFiles/${name}.dir/cmake_pch.hxx.pch)
  add_dependencies(${target} ${name})
  get_target_property(sources ${target} SOURCES)
  set_source_files_properties(${sources} PROPERTIES OBJECT_DEPENDS ${pch})
  target_compile_options(${target} PRIVATE "SHELL:$<$<COMPILE_LANGUAGE:CXX>:-Winvalid-pch -include-pch ${pch}>")
endfunction()

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

# moe_library(<name> SOURCES ... [LINK ...] [NO_PCH | PCH name]): a static library of the compiler.
function(moe_library name)
  cmake_parse_arguments(ARG "NO_PCH" "PCH" "SOURCES;LINK" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  add_dependencies(${name} moe-headers)
  target_link_libraries(${name} PUBLIC ${ARG_LINK})
  if(NOT ARG_NO_PCH)
    if(NOT ARG_PCH)
      set(ARG_PCH MoePch)
    endif()
    moe_use_pch(${name} ${ARG_PCH})
  endif()
endfunction()

# moe_tool(<name> SOURCES ... LINK ...): a compiler tool, linked with the MLIR and LLVM shared libraries.
function(moe_tool name)
  cmake_parse_arguments(ARG "NO_PCH" "PCH" "SOURCES;LINK" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  add_dependencies(${name} moe-headers)
  target_link_libraries(${name} PRIVATE ${ARG_LINK} MLIR LLVM)
  if(NOT ARG_NO_PCH)
    if(NOT ARG_PCH)
      set(ARG_PCH MoePch)
    endif()
    target_compile_options(${name} PRIVATE -fPIC) # as the precompiled header
    moe_use_pch(${name} ${ARG_PCH})
  endif()
endfunction()
