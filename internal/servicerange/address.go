package servicerange

import networkingv1 "k8s.io/api/networking/v1"

// Own is the name of the ServiceCIDR that a cluster was made with: the server makes it and puts it right, and it is always
// given from.
const Own = "kubernetes"

// AddressManager is the label value (ipaddress.kubernetes.io/managed-by) on the IPAddresses of cluster IPs, which follow their
// Services. All others reserve their address for whoever made them.
const AddressManager = "ipallocator.k8s.io"

// Reserves says whether an IPAddress keeps its address from being given to a Service.
func Reserves(a *networkingv1.IPAddress) bool {
	return a.Labels[networkingv1.LabelManagedBy] != AddressManager
}
