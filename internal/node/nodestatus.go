package node

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/node/cri"
	"coracle/internal/node/machine"
	"coracle/internal/nodestate"
	"coracle/internal/servicerange"
)

func texts(addrs []netip.Addr) []string {
	out := make([]string, len(addrs))
	for i, a := range addrs {
		out[i] = a.String()
	}
	return out
}

// handOverRange tells the runtime the node's pod range, once for each life of the runtime.
func (a *agent) handOverRange(ctx context.Context, node *corev1.Node) error {
	cidr := strings.Join(nodestate.PodRanges(node), ",") // as CRI has those of two families
	a.mu.Lock()
	told := a.podCIDR == cidr
	a.mu.Unlock()
	if cidr != "" && a.names != nil {
		a.names.ServeIn(node)
	}
	if told || cidr == "" {
		return nil
	}
	_, err := a.cri.Runtime.UpdateRuntimeConfig(ctx, &runtimeapi.UpdateRuntimeConfigRequest{
		RuntimeConfig: &runtimeapi.RuntimeConfig{NetworkConfig: &runtimeapi.NetworkConfig{PodCidr: cidr}},
	})
	if err != nil && !cri.IsUnimplemented(err) {
		return err
	}
	a.mu.Lock()
	a.podCIDR = cidr
	a.mu.Unlock()
	return nil
}

// status composes the node's status as of now, from what it says already: what others say of the node stays, and so do
// the transition times of conditions that stay.
func (a *agent) status(ctx context.Context, node *corev1.Node, now time.Time) corev1.NodeStatus {
	st := *node.Status.DeepCopy()
	st.Capacity, st.Allocatable = resourcesOf(&st, a.machine.Capacity, a.machine.Allocatable)
	st.NodeInfo = a.machine.Info
	own := make([]corev1.NodeAddress, 0, len(a.host.IPs)+1)
	for _, ip := range a.host.IPs {
		own = append(own, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip})
	}
	own = append(own, corev1.NodeAddress{Type: corev1.NodeHostName, Address: a.cfg.Name})
	st.Addresses = addressesOf(&st, own)
	st.DaemonEndpoints.KubeletEndpoint.Port = a.port
	st.NodeInfo.ContainerRuntimeVersion = node.Status.NodeInfo.ContainerRuntimeVersion
	if now.Sub(a.surveyed) >= statusEvery {
		a.survey(ctx, &st, now)
	}
	for _, cond := range a.conditions(ctx, node) {
		setNodeCondition(&st, cond, now)
	}
	return st
}

// resourcesOf merges what the machine has with the extended resources that others advertise on the node's status. These
// are what is in the capacity: all of it is allocatable, and what was taken out is not any more
// (https://kubernetes.io/docs/tasks/administer-cluster/extended-resource-node/).
func resourcesOf(st *corev1.NodeStatus, capacity, allocatable corev1.ResourceList) (have, free corev1.ResourceList) {
	have, free = capacity.DeepCopy(), allocatable.DeepCopy()
	for name, q := range st.Capacity {
		if _, own := capacity[name]; !own && extended(name) {
			have[name], free[name] = q, q
		}
	}
	return have, free
}

// extended says whether a resource is one that others advertise: it has a domain that is not Kubernetes' own
// (https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/#extended-resources).
func extended(name corev1.ResourceName) bool {
	domain, _, qualified := strings.Cut(string(name), "/")
	return qualified && domain != "kubernetes.io" && !strings.HasSuffix(domain, ".kubernetes.io")
}

// addressesOf replaces the addresses of the sorts that the node gives, and keeps the others (ExternalIP, DNS names).
func addressesOf(st *corev1.NodeStatus, own []corev1.NodeAddress) []corev1.NodeAddress {
	for _, a := range st.Addresses {
		if a.Type != corev1.NodeInternalIP && a.Type != corev1.NodeHostName {
			own = append(own, a)
		}
	}
	return own
}

// statusPatch is the difference that the node makes to its status, and nothing else: what others wrote meanwhile is not
// undone. Addresses are merged by their type, of which a node may have several; they are replaced as a whole when they differ.
func statusPatch(before, after *corev1.NodeStatus) ([]byte, error) {
	was, err := json.Marshal(corev1.Node{Status: *before})
	if err != nil {
		return nil, err
	}
	is, err := json.Marshal(corev1.Node{Status: *after})
	if err != nil {
		return nil, err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(was, is, corev1.Node{})
	if err != nil || slices.Equal(before.Addresses, after.Addresses) {
		return patch, err
	}
	var doc map[string]any
	if err := json.Unmarshal(patch, &doc); err != nil {
		return nil, err
	}
	list := make([]any, 0, len(after.Addresses)+1)
	for _, a := range after.Addresses {
		list = append(list, map[string]any{"type": string(a.Type), "address": a.Address})
	}
	if part, ok := doc["status"].(map[string]any); ok {
		delete(part, "$setElementOrder/addresses")
		part["addresses"] = append(list, map[string]any{"$patch": "replace"})
	}
	return json.Marshal(doc)
}

// survey asks the runtime for what seldom changes: who it is, and its images.
func (a *agent) survey(ctx context.Context, st *corev1.NodeStatus, now time.Time) {
	version, err := a.cri.Runtime.Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil {
		return
	}
	st.NodeInfo.ContainerRuntimeVersion = version.RuntimeName + "://" + version.RuntimeVersion
	if can, err := a.cri.Runtime.Status(ctx, &runtimeapi.StatusRequest{}); err == nil {
		st.RuntimeHandlers, st.Features = features(can)
	}
	if images, err := a.images(ctx); err == nil {
		st.Images = images
		a.surveyed = now
	}
}

// features are the ways in which the runtime can run pods, and what it can do (KEP-3857, KEP-127, KEP-3619).
func features(can *runtimeapi.StatusResponse) ([]corev1.NodeRuntimeHandler, *corev1.NodeFeatures) {
	var handlers []corev1.NodeRuntimeHandler
	for _, h := range can.RuntimeHandlers {
		recursive, users := h.Features.GetRecursiveReadOnlyMounts(), h.Features.GetUserNamespaces()
		handlers = append(handlers, corev1.NodeRuntimeHandler{Name: h.Name, Features: &corev1.NodeRuntimeHandlerFeatures{
			RecursiveReadOnlyMounts: &recursive, UserNamespaces: &users,
		}})
	}
	if can.Features == nil {
		return handlers, nil
	}
	groups := can.Features.SupplementalGroupsPolicy
	return handlers, &corev1.NodeFeatures{SupplementalGroupsPolicy: &groups}
}

const mostImages = 50

// images lists the largest images of the node, as the scheduler weighs them.
func (a *agent) images(ctx context.Context) ([]corev1.ContainerImage, error) {
	res, err := a.cri.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return nil, err
	}
	sort.Slice(res.Images, func(i, j int) bool {
		if res.Images[i].Size != res.Images[j].Size {
			return res.Images[i].Size > res.Images[j].Size
		}
		return res.Images[i].Id < res.Images[j].Id
	})
	var out []corev1.ContainerImage
	for _, image := range res.Images {
		names := append(append([]string{}, image.RepoDigests...), image.RepoTags...)
		if len(names) == 0 {
			continue
		}
		if len(out) == mostImages {
			break
		}
		sort.Strings(names)
		out = append(out, corev1.ContainerImage{Names: names, SizeBytes: int64(image.Size)})
	}
	return out, nil
}

// conditions says how the node is, in the kubelet's words.
func (a *agent) conditions(ctx context.Context, node *corev1.Node) []corev1.NodeCondition {
	ready := corev1.NodeCondition{
		Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status",
	}
	if problems := a.problems(ctx, node); len(problems) > 0 {
		ready.Status, ready.Reason, ready.Message = corev1.ConditionFalse, "KubeletNotReady", "["+strings.Join(problems, ", ")+"]"
		if len(problems) == 1 {
			ready.Message = problems[0]
		}
	}
	if reason, message := a.trust.Holds(); reason != "" {
		ready.Status, ready.Reason, ready.Message = corev1.ConditionFalse, reason, message
	}
	return append(a.leftAlone(node), []corev1.NodeCondition{
		pressure(corev1.NodeMemoryPressure, machine.FreeMemory() < machine.EvictionMemory.Value(),
			"KubeletHasInsufficientMemory", "kubelet has insufficient memory available",
			"KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
		pressure(corev1.NodeDiskPressure, machine.DiskShort(a.cfg.Dir),
			"KubeletHasDiskPressure", "kubelet has disk pressure",
			"KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
		pressure(corev1.NodePIDPressure, false,
			"KubeletHasInsufficientPID", "kubelet has insufficient PID available",
			"KubeletHasSufficientPID", "kubelet has sufficient PID available"),
		ready,
	}...)
}

// leftAlone tells of ranges that services have addresses of and that the node leaves alone, once there was one.
func (a *agent) leftAlone(node *corev1.Node) []corev1.NodeCondition {
	if a.cfg.LeftAlone == nil {
		return nil
	}
	c := corev1.NodeCondition{Type: servicerange.LeftAlone, Status: corev1.ConditionTrue, Reason: "MachineHasRoute", Message: a.cfg.LeftAlone()}
	if c.Message == "" {
		c.Status, c.Reason = corev1.ConditionFalse, "NoRouteInTheWay"
		if !slices.ContainsFunc(node.Status.Conditions, func(h corev1.NodeCondition) bool { return h.Type == c.Type }) {
			return nil
		}
	}
	return []corev1.NodeCondition{c}
}

// runtimePatience is for how long a runtime may be silent before its node is not ready, as the
// kubelet has it.
const runtimePatience = 30 * time.Second

func (a *agent) problems(ctx context.Context, node *corev1.Node) []string {
	res, err := a.cri.Runtime.Status(ctx, &runtimeapi.StatusRequest{})
	switch {
	case err == nil:
		a.answered = time.Now()
	case nodestate.Ready(node) && time.Since(a.answered) < runtimePatience:
		return nil // it restarts, or we did; its containers run on
	default:
		return []string{"container runtime is down: " + cri.Message(err)}
	}
	var out []string
	if res.Status != nil {
		for _, c := range res.Status.Conditions {
			if c.Status {
				continue
			}
			switch c.Type {
			case "RuntimeReady":
				out = append(out, fmt.Sprintf("container runtime not ready: RuntimeReady=false reason:%s message:%s", c.Reason, c.Message))
			case "NetworkReady":
				out = append(out, fmt.Sprintf("container runtime network not ready: NetworkReady=false reason:%s message:%s", c.Reason, c.Message))
			}
		}
	}
	if len(out) == 0 && node.Spec.PodCIDR == "" {
		out = append(out, "container runtime network not ready: the node has no pod range (spec.podCIDR) yet")
	}
	return out
}

func pressure(t corev1.NodeConditionType, under bool, badReason, bad, goodReason, good string) corev1.NodeCondition {
	if under {
		return corev1.NodeCondition{Type: t, Status: corev1.ConditionTrue, Reason: badReason, Message: bad}
	}
	return corev1.NodeCondition{Type: t, Status: corev1.ConditionFalse, Reason: goodReason, Message: good}
}

func setNodeCondition(st *corev1.NodeStatus, cond corev1.NodeCondition, now time.Time) {
	stamp := metav1.NewTime(now).Rfc3339Copy()
	cond.LastHeartbeatTime, cond.LastTransitionTime = stamp, stamp
	for i := range st.Conditions {
		have := &st.Conditions[i]
		if have.Type != cond.Type {
			continue
		}
		if have.Status == cond.Status {
			cond.LastTransitionTime = have.LastTransitionTime
		}
		*have = cond
		return
	}
	st.Conditions = append(st.Conditions, cond)
}

// worthTelling says whether a status differs in more than its heartbeats, or those are old.
func worthTelling(before, after *corev1.NodeStatus, now time.Time) bool {
	b, a := before.DeepCopy(), after.DeepCopy()
	for _, st := range []*corev1.NodeStatus{b, a} {
		for i := range st.Conditions {
			if st == b && now.Sub(st.Conditions[i].LastHeartbeatTime.Time) >= statusEvery {
				return true
			}
			st.Conditions[i].LastHeartbeatTime = metav1.Time{}
		}
	}
	return !equality.Semantic.DeepEqual(b, a)
}
