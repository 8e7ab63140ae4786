// Package filetree acts on trees of files that others can change meanwhile, and finds what is mounted in them.
//
// Pods write into the volumes, and whatever a pod can write it can also rename or turn into a symbolic link while the
// agent looks. A path that was checked is therefore worth nothing a moment later. This package holds every directory by
// a descriptor and takes one step at a time from it (openat2(2) with RESOLVE_NO_XDEV and RESOLVE_NO_SYMLINKS); a file
// is named by a descriptor that opens nothing (O_PATH) before anything is done with it, so that no FIFO and no device
// holds its callers up.
//
// It owns every removal of a tree in the product, and all reading, writing, changing and measuring of what pods and
// images can change. It refuses to cross a mount point and never follows a symbolic link below the path that it was
// given: the mounted tree of somebody else is reported by a MountError and left untouched. Only Within, for paths in
// which users mean links to work, follows them, and keeps them inside.
package filetree
