package container

import (
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// unconfined is the SELinux type of containers that are not confined, which is how all run where nothing is labelled.
const unconfined = "spc_t"

// Lacks says what a container asks for that no node of ours gives: it is not started without.
func Lacks(pod *corev1.Pod, c *corev1.Container) error {
	if len(c.VolumeDevices) > 0 {
		return fmt.Errorf("volumeDevices: this node gives containers no block devices (volume %q at %s)", c.VolumeDevices[0].Name, c.VolumeDevices[0].DevicePath)
	}
	if o := effectiveContext(pod, c).selinux; o != nil && *o != (corev1.SELinuxOptions{}) && o.Type != unconfined {
		return errors.New("seLinuxOptions: this node gives containers no SELinux labels; only type " + unconfined + " (not confined) can be had")
	}
	return nil
}
