// Package image is the machine's image store: a content-addressed OCI layout
// plus the unpacked layers that containers mount, shared by every runtime of
// the machine and by the command line.
//
// It owns everything under its directory: the index of names, the blobs, the
// unpacked layers and the leases that say which container uses which layers.
// Several processes may use one store at the same time. It refuses to run
// anything or to mount more than unpacking takes (packages container and
// snapshot), and it never guesses a name: what is not there is ErrNotFound.
//
// On disk:
//
//	oci-layout, index.json, blobs/sha256/HEX   manifests and configurations, in the form of an OCI image layout; the
//	                                           archives of layers only until they are unpacked
//	layers/HEX/fs                              a layer unpacked on its parents, in overlayfs form, by chain ID
//	leases/ID.json                             the layers a container stands on
//	content.lock, index.lock                   see lock.go
package image
