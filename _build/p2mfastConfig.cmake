# p2mfast::p2mfast   the static library, and its headers
# p2mfast::headers   the headers alone: for extension modules that reach the installed engine
#                    through the capsule p2mfast._engine._C_API (p2mfast_capi.h, pybind11.hpp)
#
# The directories follow this file: the package may lie anywhere.
include(CMakeFindDependencyMacro)
find_dependency(Threads)

get_filename_component(_p2mfast_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)

if(NOT TARGET p2mfast::headers)
  add_library(p2mfast::headers INTERFACE IMPORTED)
  set_target_properties(p2mfast::headers PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${_p2mfast_prefix}/include")
endif()

if(NOT TARGET p2mfast::p2mfast)
  add_library(p2mfast::p2mfast STATIC IMPORTED)
  set_target_properties(p2mfast::p2mfast PROPERTIES
    IMPORTED_LOCATION "${_p2mfast_prefix}/lib/libp2mfast.a"
    IMPORTED_LINK_INTERFACE_LANGUAGES C
    INTERFACE_LINK_LIBRARIES "p2mfast::headers;Threads::Threads")
endif()

unset(_p2mfast_prefix)
