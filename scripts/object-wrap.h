// Node's ObjectWrap without its cleanup hooks, included ahead of ssh2's sources when its native binding is built.
//
// From 24.19.0 on, ObjectWrap of Node 24 takes its hook back when the garbage collector frees the object, where no
// context is entered: the process aborts ("Assertion failed: (env) != nullptr"). Every SSH connection that ends leaves
// such an object. The hooks are in the header alone, and free at the end of an environment what that end frees anyway.
// https://github.com/nodejs/node/issues/65446, https://github.com/mscdex/ssh2/issues/1511
#include <node.h>
#define AddEnvironmentCleanupHook(...) static_cast<void>(0)
#define RemoveEnvironmentCleanupHook(...) static_cast<void>(0)
#include <node_object_wrap.h>
#undef AddEnvironmentCleanupHook
#undef RemoveEnvironmentCleanupHook
