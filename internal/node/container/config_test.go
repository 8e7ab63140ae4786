package container

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/node/cri"
)

func amounts(cpu, memory string) corev1.ResourceList {
	out := corev1.ResourceList{}
	if cpu != "" {
		out[corev1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		out[corev1.ResourceMemory] = resource.MustParse(memory)
	}
	return out
}

func TestResources(t *testing.T) {
	for name, c := range map[string]struct {
		req  corev1.ResourceRequirements
		qos  corev1.PodQOSClass
		want *runtimeapi.LinuxContainerResources
	}{
		"none":       {qos: corev1.PodQOSBestEffort, want: &runtimeapi.LinuxContainerResources{CpuShares: 2, CpuPeriod: 100000, OomScoreAdj: 1000}},
		"guaranteed": {corev1.ResourceRequirements{Requests: amounts("500m", "1Gi"), Limits: amounts("500m", "1Gi")}, corev1.PodQOSGuaranteed, &runtimeapi.LinuxContainerResources{CpuShares: 512, CpuPeriod: 100000, CpuQuota: 50000, MemoryLimitInBytes: 1 << 30, OomScoreAdj: -997}},
		"burstable":  {corev1.ResourceRequirements{Requests: amounts("1", "2Gi")}, corev1.PodQOSBurstable, &runtimeapi.LinuxContainerResources{CpuShares: 1024, CpuPeriod: 100000, OomScoreAdj: 750}},
		"tiny":       {corev1.ResourceRequirements{Limits: amounts("1m", "")}, corev1.PodQOSBurstable, &runtimeapi.LinuxContainerResources{CpuShares: 2, CpuPeriod: 100000, CpuQuota: 1000, OomScoreAdj: 999}},
		"limit only": {corev1.ResourceRequirements{Limits: amounts("2", "")}, corev1.PodQOSBurstable, &runtimeapi.LinuxContainerResources{CpuShares: 2048, CpuPeriod: 100000, CpuQuota: 200000, OomScoreAdj: 999}},
	} {
		got := Resources(&corev1.Pod{}, &corev1.Container{Resources: c.req}, 8<<30, c.qos)
		if diff := cmp.Diff(c.want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestPodResources(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		Containers: []corev1.Container{
			{Resources: corev1.ResourceRequirements{Requests: amounts("100m", ""), Limits: amounts("200m", "64Mi")}},
			{Resources: corev1.ResourceRequirements{Requests: amounts("300m", ""), Limits: amounts("", "64Mi")}},
		},
		InitContainers: []corev1.Container{
			{RestartPolicy: &always, Resources: corev1.ResourceRequirements{Requests: amounts("100m", ""), Limits: amounts("", "32Mi")}},
			{Resources: corev1.ResourceRequirements{Requests: amounts("1", ""), Limits: amounts("", "32Mi")}},
		},
	}}
	want := &runtimeapi.LinuxContainerResources{CpuShares: 1024, CpuPeriod: 100000, MemoryLimitInBytes: 160 << 20}
	if diff := cmp.Diff(want, PodResources(pod), protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := CgroupParent("/c", &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}}, corev1.PodQOSBurstable); got != "/c/burstable/podu" {
		t.Errorf("cgroup %s", got)
	}
}

func TestNonRoot(t *testing.T) {
	yes := &corev1.SecurityContext{RunAsNonRoot: new(true)}
	with := func(uid int64) *corev1.SecurityContext {
		return &corev1.SecurityContext{RunAsNonRoot: new(true), RunAsUser: &uid}
	}
	for name, c := range map[string]struct {
		security *corev1.SecurityContext
		image    ImageUser
		fails    string
	}{
		"not asked":    {nil, ImageUser{}, ""},
		"user given":   {with(5), ImageUser{}, ""},
		"root given":   {with(0), ImageUser{}, "runAsUser breaks non-root policy"},
		"image's user": {yes, ImageUser{UID: new(int64(7))}, ""},
		"image's root": {yes, ImageUser{UID: new(int64(0))}, "image will run as root"},
		"image's name": {yes, ImageUser{Name: "nginx"}, "image has non-numeric user (nginx), cannot verify user is non-root"},
		"image mute":   {yes, ImageUser{}, "image will run as root"},
	} {
		err := VerifyNonRoot(&corev1.Pod{}, &corev1.Container{SecurityContext: c.security}, c.image)
		if c.fails == "" && err != nil || c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)) {
			t.Errorf("%s: %v, want %q", name, err, c.fails)
		}
	}
}

func TestSecurity(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		ShareProcessNamespace: new(true),
		SecurityContext:       &corev1.PodSecurityContext{RunAsUser: new(int64(10)), RunAsGroup: new(int64(20)), FSGroup: new(int64(30)), SupplementalGroups: []int64{40}},
	}}
	got := security(pod, &corev1.Container{SecurityContext: &corev1.SecurityContext{
		RunAsUser: new(int64(11)), AllowPrivilegeEscalation: new(false), ReadOnlyRootFilesystem: new(true),
		Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"NET_ADMIN"}, Drop: []corev1.Capability{"ALL"}},
	}}, ImageUser{UID: new(int64(99))}, "/seccomp")
	want := &runtimeapi.LinuxContainerSecurityContext{
		RunAsUser: &runtimeapi.Int64Value{Value: 11}, RunAsGroup: &runtimeapi.Int64Value{Value: 20}, SupplementalGroups: []int64{40, 30},
		NoNewPrivs: true, ReadonlyRootfs: true, MaskedPaths: maskedPaths, ReadonlyPaths: readonlyPaths,
		Capabilities:     &runtimeapi.Capability{AddCapabilities: []string{"NET_ADMIN"}, DropCapabilities: []string{"ALL"}},
		NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_POD},
		Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	privileged := security(pod, &corev1.Container{SecurityContext: &corev1.SecurityContext{Privileged: new(true)}}, ImageUser{}, "")
	if !privileged.Privileged || privileged.MaskedPaths != nil || privileged.Seccomp.ProfileType != runtimeapi.SecurityProfile_Unconfined {
		t.Errorf("privileged: %v", privileged)
	}
}

// TestGroupAlone: CRI takes no group without a user, so the agent says who the container is anyway.
func TestGroupAlone(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{RunAsGroup: new(int64(50))}}}
	for name, tt := range map[string]struct {
		image ImageUser
		user  *int64
		named string
	}{
		"image mute":   {ImageUser{}, new(int64(0)), ""},
		"image's user": {ImageUser{UID: new(int64(7))}, new(int64(7)), ""},
		"image's name": {ImageUser{Name: "web"}, nil, "web"},
	} {
		sc := security(pod, &corev1.Container{}, tt.image, "")
		if sc.RunAsGroup.GetValue() != 50 || sc.RunAsUsername != tt.named || (sc.RunAsUser == nil) != (tt.user == nil) {
			t.Errorf("%s: %v", name, sc)
		}
		if tt.user != nil && sc.RunAsUser.GetValue() != *tt.user {
			t.Errorf("%s: user %v", name, sc.RunAsUser)
		}
	}
	if sc := sandboxSecurity(pod, ""); sc.RunAsGroup != nil {
		t.Errorf("sandbox: %v", sc)
	}
	pod.Spec.SecurityContext.RunAsUser = new(int64(8))
	if sc := sandboxSecurity(pod, ""); sc.RunAsGroup.GetValue() != 50 || sc.RunAsUser.GetValue() != 8 {
		t.Errorf("sandbox with a user: %v", sc)
	}
}

func TestDNS(t *testing.T) {
	d := DNS{Domain: "cluster.local", Servers: []string{"10.96.0.10"}, Host: ParseResolvConf("# x\nnameserver 9.9.9.9\nsearch corp\noptions edns0\n")}
	cluster := &runtimeapi.DNSConfig{Servers: []string{"10.96.0.10"}, Searches: []string{"ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp"}, Options: []string{"ndots:5"}}
	host := &runtimeapi.DNSConfig{Servers: []string{"9.9.9.9"}, Searches: []string{"corp"}, Options: []string{"edns0"}}
	for name, c := range map[string]struct {
		spec corev1.PodSpec
		dns  DNS
		want *runtimeapi.DNSConfig
	}{
		"cluster first":           {corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst}, d, cluster},
		"with the host's net":     {corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst, HostNetwork: true}, d, host},
		"cluster, host's net":     {corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirstWithHostNet, HostNetwork: true}, d, cluster},
		"default":                 {corev1.PodSpec{DNSPolicy: corev1.DNSDefault}, d, host},
		"a cluster without a DNS": {corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst}, DNS{Domain: "cluster.local", Host: d.Host}, host},
		"none": {corev1.PodSpec{DNSPolicy: corev1.DNSNone, DNSConfig: &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: new("2")}}}}, d,
			&runtimeapi.DNSConfig{Servers: []string{"1.1.1.1"}, Options: []string{"ndots:2"}}},
		"more": {corev1.PodSpec{DNSConfig: &corev1.PodDNSConfig{Searches: []string{"corp", "extra"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: new("1")}, {Name: "rotate"}}}}, d,
			&runtimeapi.DNSConfig{Servers: cluster.Servers, Searches: append(append([]string{}, cluster.Searches...), "extra"), Options: []string{"ndots:1", "rotate"}}},
	} {
		got, wrong := c.dns.Config(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}, Spec: c.spec})
		if missing := name == "a cluster without a DNS"; missing != (len(wrong) == 1 && wrong[0].Reason == "MissingClusterDNS") || !missing && len(wrong) > 0 {
			t.Errorf("%s: %q", name, wrong)
		}
		if diff := cmp.Diff(c.want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestDNSLimits: what resolvers would not read is left out, and said in the kubelet's words.
func TestDNSLimits(t *testing.T) {
	many := func(n int, text string) (out []string) {
		for i := range n {
			out = append(out, fmt.Sprintf(text, i))
		}
		return out
	}
	d := DNS{Domain: "cluster.local", Servers: []string{"10.244.0.1"}}
	const servers = "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: "
	const searches = "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: "
	own := []string{"ns.svc.cluster.local", "svc.cluster.local", "cluster.local"}
	long := strings.Repeat("a.", 126) + "ab" // 254 bytes
	for name, c := range map[string]struct {
		config   corev1.PodDNSConfig
		servers  int
		searches int
		want     []string
	}{
		"all fits":       {corev1.PodDNSConfig{Nameservers: many(2, "192.0.2.%d"), Searches: many(29, "s%d")}, 3, 32, nil},
		"name servers":   {corev1.PodDNSConfig{Nameservers: many(3, "192.0.2.%d")}, 3, 3, []string{servers + "10.244.0.1 192.0.2.0 192.0.2.1"}},
		"search paths":   {corev1.PodDNSConfig{Searches: many(30, "s%d")}, 1, 32, []string{searches + strings.Join(append(own, many(29, "s%d")...), " ")}},
		"search bytes":   {corev1.PodDNSConfig{Searches: many(20, strings.Repeat("b", 99)+"%02d")}, 1, 22, []string{searches}},
		"one long path":  {corev1.PodDNSConfig{Searches: []string{long, "short"}}, 1, 4, []string{searches + strings.Join(append(own, "short"), " ")}},
		"the same again": {corev1.PodDNSConfig{Nameservers: []string{"10.244.0.1"}, Searches: own}, 1, 3, nil},
	} {
		got, wrong := d.Config(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}, Spec: corev1.PodSpec{DNSConfig: &c.config}})
		if len(got.Servers) != c.servers || len(got.Searches) != c.searches || len(strings.Join(got.Searches, " ")) > 2048 || len(wrong) != len(c.want) {
			t.Errorf("%s: %v %q", name, got, wrong)
			continue
		}
		for i, w := range wrong {
			if w.Reason != "DNSConfigForming" || !strings.HasPrefix(w.Message, c.want[i]) {
				t.Errorf("%s: %q, want %q", name, w, c.want[i])
			}
		}
	}
}

// TestSearches: only a pod that asks the cluster's name server, and wants it, has its search list answered at once.
func TestSearches(t *testing.T) {
	d := DNS{Domain: "cluster.local", Servers: []string{"10.244.0.1"}, Host: ResolvConf{Searches: []string{"Corp.example"}}}
	pod := func(change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}}
		change(p)
		return p
	}
	want := []string{"ns.svc.cluster.local.", "svc.cluster.local.", "cluster.local.", "corp.example."}
	if diff := cmp.Diff(want, d.Searches(pod(func(*corev1.Pod) {}))); diff != "" {
		t.Error(diff)
	}
	for name, change := range map[string]func(*corev1.Pod){
		"off":          func(p *corev1.Pod) { p.Annotations = map[string]string{SearchShortcut: "off"} },
		"default":      func(p *corev1.Pod) { p.Spec.DNSPolicy = corev1.DNSDefault },
		"none":         func(p *corev1.Pod) { p.Spec.DNSPolicy = corev1.DNSNone },
		"host network": func(p *corev1.Pod) { p.Spec.HostNetwork, p.Spec.DNSPolicy = true, corev1.DNSClusterFirstWithHostNet },
	} {
		if got := d.Searches(pod(change)); got != nil {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// TestHostnameFault: a full name that the kernel would not take as a host name is refused with the kubelet's words.
func TestHostnameFault(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: strings.Repeat("a", 40), Namespace: "ns"}, Spec: corev1.PodSpec{Subdomain: "sub"}}
	if fault := HostnameFault(pod, "cluster.local"); fault != "" {
		t.Error(fault)
	}
	pod.Spec.SetHostnameAsFQDN = new(true)
	if fault := HostnameFault(pod, "cluster.local"); !strings.Contains(fault, "is too long (64 characters is the max, 65 characters requested)") {
		t.Error(fault)
	}
	pod.Name = pod.Name[1:]
	if fault := HostnameFault(pod, "cluster.local"); fault != "" {
		t.Error(fault)
	}
}

func TestNames(t *testing.T) {
	long := strings.Repeat("a", 62) + "-b"
	for _, c := range []struct{ name, hostname, subdomain, want, fqdn string }{
		{"web-0", "", "", "web-0", ""},
		{"web-0", "", "web", "web-0", "web-0.web.ns.svc.cluster.local"},
		{"web-0", "h", "web", "h", "h.web.ns.svc.cluster.local"},
		{long, "", "", strings.Repeat("a", 62), ""},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: c.name, Namespace: "ns"}, Spec: corev1.PodSpec{Hostname: c.hostname, Subdomain: c.subdomain}}
		if host, fqdn := Hostname(pod, "cluster.local"); host != c.want || fqdn != c.fqdn {
			t.Errorf("%+v: %q %q", c, host, fqdn)
		}
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web-0", Namespace: "ns"}, Spec: corev1.PodSpec{Subdomain: "web", HostAliases: []corev1.HostAlias{{IP: "1.2.3.4", Hostnames: []string{"a", "b"}}}}}
	got := string(Hosts(pod, "cluster.local", []string{"10.0.0.1"}))
	for _, line := range []string{"# Kubernetes-managed hosts file.\n", "127.0.0.1\tlocalhost\n", "10.0.0.1\tweb-0.web.ns.svc.cluster.local\tweb-0\n", "1.2.3.4\ta\tb\n"} {
		if !strings.Contains(got, line) {
			t.Errorf("no line %q in\n%s", line, got)
		}
	}
}

// TestForgedIdentity: labels and annotations of a pod are its author's, and what the runtime is told of whose a container is
// and of what it mounts is the agent's.
func TestForgedIdentity(t *testing.T) {
	forged := map[string]string{
		cri.PodName: "other", cri.PodNamespace: "kube-system", cri.PodUID: "other", cri.ContainerName: "other", cri.MountSources: `{"/d":"1:1"}`,
		cri.ContainerHash: "0", cri.RestartCount: "9", cri.TerminationPath: "/etc/shadow", cri.Crashes: "9",
	}
	c := corev1.Container{Name: "main", Image: "i:1"}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u", Labels: forged, Annotations: forged}, Spec: corev1.PodSpec{Containers: []corev1.Container{c}}}
	mount := Mount{ContainerPath: "/d", HostPath: "/h", Is: Identity{Device: 7, Inode: 8}}
	for _, mounts := range [][]Mount{nil, {mount}} {
		got, err := Container(context.Background(), pod, &c, Options{Environment: &Environment{}, ImageRef: "sha256:1", Mounts: mounts})
		if err != nil {
			t.Fatal(err)
		}
		if want := map[bool]string{true: `{"/d":"7:8"}`}[mounts != nil]; got.Annotations[cri.MountSources] != want {
			t.Errorf("sources of mounts %q, want %q", got.Annotations[cri.MountSources], want)
		}
		for key, value := range forged {
			if got.Labels[key] == value || got.Annotations[key] == value {
				t.Errorf("the container's %s is %q", key, value)
			}
		}
	}
	sandbox := Sandbox(pod, SandboxOptions{})
	for key, want := range map[string]string{cri.PodName: "p", cri.PodNamespace: "ns", cri.PodUID: "u"} {
		if sandbox.Labels[key] != want {
			t.Errorf("the sandbox's %s is %q", key, sandbox.Labels[key])
		}
	}
}

func TestContainerConfig(t *testing.T) {
	c := corev1.Container{
		Name: "main", Image: "i:1", Command: []string{"run", "$(WHO)"}, Args: []string{"$(NOT_SET)", "$$(WHO)"}, WorkingDir: "/w",
		Env: []corev1.EnvVar{{Name: "WHO", Value: "me"}}, Stdin: true, TTY: true, TerminationMessagePath: "/dev/termination-log",
		Lifecycle: &corev1.Lifecycle{StopSignal: new(corev1.SIGUSR1)},
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"}, Spec: corev1.PodSpec{Containers: []corev1.Container{c}}}
	o := Options{Environment: &Environment{}, ImageRef: "sha256:1", QOS: corev1.PodQOSBestEffort, Mounts: []Mount{
		{ContainerPath: "/d", HostPath: "/h", ReadOnly: true, Recursive: true, Propagation: new(corev1.MountPropagationHostToContainer)},
	}}
	o.Step.Attempt, o.Step.Crashes = 3, 2
	got, err := Container(context.Background(), pod, &c, o)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([][]string{{"run", "me"}, {"$(NOT_SET)", "$(WHO)"}}, [][]string{got.Command, got.Args}); diff != "" {
		t.Errorf("command (-want +got):\n%s", diff)
	}
	mount := &runtimeapi.Mount{ContainerPath: "/d", HostPath: "/h", Readonly: true, RecursiveReadOnly: true, Propagation: runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER}
	if diff := cmp.Diff(mount, got.Mounts[0], protocmp.Transform()); diff != "" {
		t.Errorf("mount (-want +got):\n%s", diff)
	}
	if got.LogPath != "main/3.log" || got.Metadata.Attempt != 3 || got.Annotations[cri.Crashes] != "2" || got.Labels[cri.PodUID] != "u" ||
		got.StopSignal != runtimeapi.Signal_SIGNAL_SIGUSR1 || !got.Tty || !got.Stdin || got.WorkingDir != "/w" || got.Image.UserSpecifiedImage != "i:1" {
		t.Errorf("config: %v", got)
	}
}

// TestSandboxFields: the sandbox is asked for what the pod says of users, overhead and the ports of its sidecars.
func TestSandboxFields(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		HostUsers: new(false), Overhead: amounts("250m", "64Mi"),
		InitContainers: []corev1.Container{
			{Name: "init", Ports: []corev1.ContainerPort{{ContainerPort: 1, HostPort: 1}}},
			{Name: "side", RestartPolicy: &always, Ports: []corev1.ContainerPort{{ContainerPort: 2, HostPort: 20, HostIP: "127.0.0.1", Protocol: corev1.ProtocolUDP}}},
		},
		Containers: []corev1.Container{{Name: "main", Ports: []corev1.ContainerPort{{ContainerPort: 3, HostPort: 30}, {ContainerPort: 4}}}},
	}}
	cfg := Sandbox(pod, SandboxOptions{})
	if u := cfg.Linux.SecurityContext.NamespaceOptions.UsernsOptions; u == nil || u.Mode != runtimeapi.NamespaceMode_POD {
		t.Errorf("users: %v", u)
	}
	want := &runtimeapi.LinuxContainerResources{CpuShares: 256, CpuPeriod: cpuPeriod, CpuQuota: 25000, MemoryLimitInBytes: 64 << 20}
	if diff := cmp.Diff(want, cfg.Linux.Overhead, protocmp.Transform()); diff != "" {
		t.Errorf("overhead (-want +got):\n%s", diff)
	}
	ports := []*runtimeapi.PortMapping{{ContainerPort: 3, HostPort: 30}, {ContainerPort: 2, HostPort: 20, HostIp: "127.0.0.1", Protocol: runtimeapi.Protocol_UDP}}
	if diff := cmp.Diff(ports, cfg.PortMappings, protocmp.Transform()); diff != "" {
		t.Errorf("ports (-want +got):\n%s", diff)
	}
	plain := Sandbox(&corev1.Pod{Spec: corev1.PodSpec{HostUsers: new(true)}}, SandboxOptions{})
	if plain.Linux.Overhead != nil || plain.Linux.SecurityContext.NamespaceOptions.UsernsOptions != nil {
		t.Errorf("a plain pod: %v", plain.Linux)
	}
}
