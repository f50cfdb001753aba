# FASTCONV_CUDA = AUTO | ON | OFF, from -D or from the environment variable of the same name. Defines
# the library fastconv_cuda: with nvcc (12.4 or newer) every file of csrc/cuda, each compiled for the
# architectures that its name stands for; else no_cuda.cpp, which says why. No GPU is needed, and
# nothing is linked to libcuda: the runtime is the static one, which looks for a driver when used.
#
# FASTCONV_CUDA_ARCHS (-D or environment) replaces the architectures, e.g. "86" or "80-real;90a-real":
# -real is machine code, -virtual PTX, neither both.
if(DEFINED ENV{FASTCONV_CUDA} AND FASTCONV_CUDA STREQUAL "AUTO")
    set(FASTCONV_CUDA "$ENV{FASTCONV_CUDA}")
endif()
string(TOUPPER "${FASTCONV_CUDA}" FASTCONV_CUDA)
if(NOT FASTCONV_CUDA MATCHES "^(AUTO|ON|OFF)$")
    message(FATAL_ERROR "FASTCONV_CUDA must be AUTO, ON or OFF, not '${FASTCONV_CUDA}'")
endif()
set(FASTCONV_CUDA_ARCHS "$ENV{FASTCONV_CUDA_ARCHS}" CACHE STRING
    "Architectures of the CUDA kernels instead of the default ones, e.g. 80-real;90a-real;90-virtual")
option(FASTCONV_EMULATION "Run the CUDA kernels in the emulation of tests/emulation" OFF)

# A new file is compiled without a change here.
file(GLOB FASTCONV_CUDA_SOURCES CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/*.cu)
file(GLOB FASTCONV_CUDA_HOST_SOURCES CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/*.cpp)
list(REMOVE_ITEM FASTCONV_CUDA_HOST_SOURCES ${CMAKE_CURRENT_LIST_DIR}/no_cuda.cpp)

# ---- is there a compiler? why_not_cuda stays empty if so ------------------------------------------
set(FASTCONV_CUDA_OLDEST 12.4)
set(why_not_cuda "")
if(FASTCONV_EMULATION)
    set(why_not_cuda "it was built with FASTCONV_EMULATION=ON")
elseif(FASTCONV_CUDA STREQUAL "OFF")
    set(why_not_cuda "it was built with FASTCONV_CUDA=OFF")
else()
    find_program(FASTCONV_NVCC nvcc
        HINTS ENV CUDACXX ENV CUDA_HOME ENV CUDA_PATH
        PATHS /usr/local/cuda /opt/cuda PATH_SUFFIXES bin)
    if(DEFINED ENV{CUDACXX})
        set(FASTCONV_NVCC "$ENV{CUDACXX}")
    endif()
    if(NOT FASTCONV_NVCC)
        set(why_not_cuda "nvcc, the CUDA compiler, was not found when it was built")
        set(searched
            "Searched: CUDACXX='$ENV{CUDACXX}', CUDA_HOME='$ENV{CUDA_HOME}', "
            "CUDA_PATH='$ENV{CUDA_PATH}', /usr/local/cuda/bin, /opt/cuda/bin, the system's program "
            "folders and PATH='$ENV{PATH}'.\nInstall the CUDA toolkit or set CUDA_HOME to it; or "
            "build for the CPU with FASTCONV_CUDA=OFF.")
    else()
        execute_process(COMMAND ${FASTCONV_NVCC} --version OUTPUT_VARIABLE nvcc_says ERROR_QUIET)
        string(REGEX MATCH "release ([0-9]+\\.[0-9]+)" _ "${nvcc_says}")
        set(nvcc_release "${CMAKE_MATCH_1}")
        if(NOT nvcc_release OR nvcc_release VERSION_LESS FASTCONV_CUDA_OLDEST)
            set(why_not_cuda "nvcc ${FASTCONV_CUDA_OLDEST} or newer is needed, but ${FASTCONV_NVCC} \
is ${nvcc_release}")
        else()
            # One host compiler for all files, unless the user wants another one for nvcc.
            if(NOT CMAKE_CUDA_HOST_COMPILER AND NOT DEFINED ENV{CUDAHOSTCXX})
                set(ENV{CUDAHOSTCXX} "${CMAKE_CXX_COMPILER}")
            endif()
            set(ENV{CUDACXX} "${FASTCONV_NVCC}")
            include(CheckLanguage)
            check_language(CUDA)
            if(NOT CMAKE_CUDA_COMPILER)
                set(why_not_cuda "${FASTCONV_NVCC} could not compile with ${CMAKE_CXX_COMPILER} when \
it was built (CMakeFiles/CMakeError.log or CMakeConfigureLog.yaml of the build folder has its words)")
            endif()
        endif()
    endif()
    if(why_not_cuda AND FASTCONV_CUDA STREQUAL "ON")
        message(FATAL_ERROR "FASTCONV_CUDA=ON, but ${why_not_cuda}. " ${searched})
    endif()
endif()

add_library(fastconv_cuda STATIC)
set_target_properties(fastconv_cuda PROPERTIES LINKER_LANGUAGE CXX CUDA_ARCHITECTURES OFF)
target_include_directories(fastconv_cuda PUBLIC ${CMAKE_CURRENT_LIST_DIR}/..)

if(FASTCONV_EMULATION)
    # Adds FASTCONV_CUDA_SOURCES and FASTCONV_CUDA_HOST_SOURCES to fastconv_cuda as C++.
    include(${PROJECT_SOURCE_DIR}/tests/emulation/emulation.cmake)
    return()
elseif(why_not_cuda)
    message(STATUS "fastconv: CUDA: no kernels: ${why_not_cuda}")
    target_sources(fastconv_cuda PRIVATE ${CMAKE_CURRENT_LIST_DIR}/no_cuda.cpp)
    target_compile_definitions(fastconv_cuda PRIVATE FASTCONV_WHY_NOT_CUDA="${why_not_cuda}")
    return()
endif()

# ---- architectures: what a file's name asks for, as far as this toolkit has it --------------------
set(CMAKE_CUDA_ARCHITECTURES OFF)  # none but those below
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
set(CMAKE_CUDA_FLAGS_RELEASE "-O3 -DNDEBUG")

execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --list-gpu-arch
    OUTPUT_VARIABLE toolkit_archs OUTPUT_STRIP_TRAILING_WHITESPACE)
string(REGEX MATCHALL "[0-9]+" toolkit_archs "${toolkit_archs}")
string(REGEX REPLACE "[ ,]+" ";" FASTCONV_CUDA_ARCHS "${FASTCONV_CUDA_ARCHS}")

set(cuda_archs_built "")
# name: of the target; least: a capability that the group's instructions need; the rest: files. With a
# letter, the instructions are one architecture's alone: the group has its default whatever is wanted
# (the plan takes its kernels nowhere else, but the symbols must be), and is not counted as built.
function(fastconv_cuda_group name least default_archs)
    if(NOT ARGN)
        return()
    endif()
    set(wanted ${default_archs})
    if(FASTCONV_CUDA_ARCHS AND NOT least MATCHES "[a-z]$")
        set(wanted "")
        foreach(arch IN LISTS FASTCONV_CUDA_ARCHS)
            if(NOT arch MATCHES "^([0-9]+)[af]?(-real|-virtual)?$" OR CMAKE_MATCH_1 LESS 75)
                message(FATAL_ERROR "FASTCONV_CUDA_ARCHS has '${arch}'; wanted e.g. 80, 80-real, "
                    "90a-real or 90-virtual, 75 or later, separated by semicolons")
            endif()
            if(NOT CMAKE_MATCH_1 LESS least)
                list(APPEND wanted ${arch})
            endif()
        endforeach()
        if(NOT wanted)  # the plan never takes these kernels there, but the symbols must be
            list(GET default_archs 0 wanted)
        endif()
    endif()
    set(options "")
    foreach(arch IN LISTS wanted)
        string(REGEX MATCH "^([0-9]+)([af]?)(-real|-virtual)?$" _ "${arch}")
        set(number "${CMAKE_MATCH_1}${CMAKE_MATCH_2}")
        set(kind "${CMAKE_MATCH_3}")
        if(NOT CMAKE_MATCH_1 IN_LIST toolkit_archs)  # its list has no letters: 90a is in it as 90
            if(FASTCONV_CUDA_ARCHS)
                message(FATAL_ERROR "FASTCONV_CUDA_ARCHS has ${arch}, which ${CMAKE_CUDA_COMPILER} "
                    "${CMAKE_CUDA_COMPILER_VERSION} does not know; it has: ${toolkit_archs}")
            endif()
            message(STATUS "fastconv: CUDA: this toolkit does not have ${arch}: left out")
            continue()
        endif()
        if(NOT kind STREQUAL "-virtual")
            list(APPEND options "--generate-code=arch=compute_${number},code=[sm_${number}]")
            list(APPEND cuda_archs_built ${number})
        endif()
        if(NOT kind STREQUAL "-real")
            list(APPEND options "--generate-code=arch=compute_${number},code=[compute_${number}]")
            list(APPEND cuda_archs_built ${number}-virtual)
        endif()
    endforeach()
    add_library(${name} OBJECT ${ARGN})
    target_include_directories(${name} PRIVATE ${CMAKE_CURRENT_LIST_DIR}/..)
    # Device code contracts a * b + c to FMAs (nvcc's default): bits are the same from run to run, not
    # the same as the CPU's.
    target_compile_options(${name} PRIVATE ${options} --expt-relaxed-constexpr
        -Xcompiler=-ffp-contract=off,-fno-math-errno,-Wall,-Wextra
        $<$<BOOL:${FASTCONV_WARNINGS_AS_ERRORS}>:-Werror=all-warnings>)
    target_link_libraries(${name} PRIVATE CUDA::cudart_static)  # for its include folder
    target_sources(fastconv_cuda PRIVATE $<TARGET_OBJECTS:${name}>)
    if(NOT least MATCHES "[a-z]$")
        set(cuda_archs_built ${cuda_archs_built} PARENT_SCOPE)
    endif()
endfunction()

set(sm80_sources ${FASTCONV_CUDA_SOURCES})
list(FILTER sm80_sources INCLUDE REGEX "_sm80\\.cu$")
set(sm90_sources ${FASTCONV_CUDA_SOURCES})
list(FILTER sm90_sources INCLUDE REGEX "_sm90\\.cu$")
set(other_sources ${FASTCONV_CUDA_SOURCES})
list(FILTER other_sources EXCLUDE REGEX "_sm(80|90)\\.cu$")
fastconv_cuda_group(cuda_any 75 "75-real;80-real;90a-real;90-virtual" ${other_sources})
fastconv_cuda_group(cuda_sm80 80 "80-real;90a-real;90-virtual" ${sm80_sources})
fastconv_cuda_group(cuda_sm90 90a "90a-real" ${sm90_sources})

list(REMOVE_DUPLICATES cuda_archs_built)
list(JOIN cuda_archs_built " " cuda_archs_text)
message(STATUS
    "fastconv: CUDA: ${CMAKE_CUDA_COMPILER} ${CMAKE_CUDA_COMPILER_VERSION} for ${cuda_archs_text}")
target_sources(fastconv_cuda PRIVATE ${FASTCONV_CUDA_HOST_SOURCES})
set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/built.cpp PROPERTIES COMPILE_DEFINITIONS
    "FASTCONV_CUDA_ARCHITECTURES=\"${cuda_archs_text}\"")
target_link_libraries(fastconv_cuda PUBLIC fastconv_cpu CUDA::cudart_static)
