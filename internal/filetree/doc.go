// Package filetree removes and walks trees of files that others can change meanwhile, and finds what is mounted in
// them.
//
// Pods write into the volumes, and whatever a pod can write it can also rename or turn into a symbolic link while the
// agent looks. A path that was checked is therefore worth nothing a moment later. This package holds every directory by
// a descriptor and takes one step at a time from it (openat2(2) with RESOLVE_NO_XDEV and RESOLVE_NO_SYMLINKS).
//
// It owns every removal of a tree in the product. It refuses to cross a mount point and never follows a symbolic link
// below the path that it was given: the mounted tree of somebody else is reported by a MountError and left untouched.
package filetree
