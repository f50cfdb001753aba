# FASTCONV_EMULATION=ON: what csrc/cuda/cuda.cmake includes instead of using nvcc. Adds the .cu
# files to fastconv_cuda, compiled as C++, and the emulation that runs them (README.md here).
set(FASTCONV_EMULATION_FLAGS
    "-march=native -fsanitize=alignment -fsanitize-undefined-trap-on-error" CACHE STRING
    "Compiler flags of emulated kernels")
# The machine's own FMA is some ten times faster than libm's. A misaligned access, which a GPU refuses
# and a CPU mostly does not, becomes a trap: kernels take 1.3 times as long, those without warp
# instructions up to 4 times.
separate_arguments(emulation_flags UNIX_COMMAND "${FASTCONV_EMULATION_FLAGS}")
# -g1: lines in reports; -fstack-clash-protection: too many local variables meet the guard page.
set(emulation_flags -O2 -g1 -fstack-clash-protection -Wno-unknown-pragmas ${emulation_flags})

file(GLOB emulation_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/*.cpp)
set_source_files_properties(${emulation_sources} PROPERTIES COMPILE_OPTIONS "-march=native")
set_source_files_properties(${FASTCONV_CUDA_SOURCES} PROPERTIES
    LANGUAGE CXX COMPILE_OPTIONS "-xc++;${emulation_flags}")
set_source_files_properties(${PROJECT_SOURCE_DIR}/csrc/cuda/built.cpp PROPERTIES COMPILE_DEFINITIONS
    "FASTCONV_CUDA_ARCHITECTURES=\"75 80 90-virtual\";FASTCONV_CUDA_VERSION=\"emulated\"")
list(REMOVE_ITEM FASTCONV_CUDA_HOST_SOURCES  # asks the driver; the emulation has its own
    ${PROJECT_SOURCE_DIR}/csrc/cuda/tensor_map.cpp)
target_sources(fastconv_cuda PRIVATE
    ${emulation_sources} ${FASTCONV_CUDA_SOURCES} ${FASTCONV_CUDA_HOST_SOURCES})
target_include_directories(fastconv_cuda BEFORE PRIVATE ${CMAKE_CURRENT_LIST_DIR}/include)
target_link_libraries(fastconv_cuda PUBLIC fastconv_cpu ${CMAKE_DL_LIBS})
