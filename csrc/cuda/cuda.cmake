# FASTCONV_CUDA = AUTO | ON | OFF, from -D or from the environment variable of the same name.
# Defines the library fastconv_cuda: for now always the one that says "built without CUDA kernels".
if(DEFINED ENV{FASTCONV_CUDA} AND FASTCONV_CUDA STREQUAL "AUTO")
    set(FASTCONV_CUDA "$ENV{FASTCONV_CUDA}")
endif()
string(TOUPPER "${FASTCONV_CUDA}" FASTCONV_CUDA)

if(FASTCONV_CUDA STREQUAL "ON")
    find_program(FASTCONV_NVCC nvcc
        HINTS ENV CUDACXX ENV CUDA_HOME ENV CUDA_PATH
        PATHS /usr/local/cuda /opt/cuda PATH_SUFFIXES bin)
    if(NOT FASTCONV_NVCC)
        message(FATAL_ERROR
            "FASTCONV_CUDA=ON, but nvcc was not found. Searched: CUDA_HOME='$ENV{CUDA_HOME}', "
            "CUDA_PATH='$ENV{CUDA_PATH}', CUDACXX='$ENV{CUDACXX}', /usr/local/cuda/bin, "
            "/opt/cuda/bin, the system's program folders and PATH='$ENV{PATH}'.\n"
            "Install the CUDA toolkit or set CUDA_HOME to it; or build for the CPU with "
            "FASTCONV_CUDA=OFF.")
    endif()
    message(FATAL_ERROR
        "FASTCONV_CUDA=ON and nvcc was found (${FASTCONV_NVCC}), but fastconv ${PROJECT_VERSION} "
        "has no CUDA kernels yet. Build with FASTCONV_CUDA=AUTO or OFF.")
elseif(FASTCONV_CUDA STREQUAL "AUTO")
    message(STATUS "fastconv: CUDA: this version has no CUDA kernels yet; building for the CPU")
elseif(FASTCONV_CUDA STREQUAL "OFF")
    message(STATUS "fastconv: CUDA: off")
else()
    message(FATAL_ERROR "FASTCONV_CUDA must be AUTO, ON or OFF, not '${FASTCONV_CUDA}'")
endif()

add_library(fastconv_cuda STATIC ${CMAKE_CURRENT_LIST_DIR}/no_cuda.cpp)
target_include_directories(fastconv_cuda PUBLIC ${CMAKE_CURRENT_LIST_DIR}/..)
