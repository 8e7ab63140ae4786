package fuzz

// template is a pod template with a list and a map of every sort that merges in a way of its own.
const template = `{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"nowhere.invalid/x:1",
"command":["x"],"args":["a"],
"env":[{"name":"A","value":"b"},{"name":"F","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}}],
"ports":[{"containerPort":80,"protocol":"TCP","name":"http"}],"resources":{"requests":{"cpu":"1m","memory":"1Mi"},
"limits":{"memory":"1Mi"}},
"volumeMounts":[{"name":"e","mountPath":"/e","subPath":"s"}],"readinessProbe":{"httpGet":{"path":"/","port":"http"},
"periodSeconds":5},
"lifecycle":{"preStop":{"exec":{"command":["x"]}}},"securityContext":{"runAsUser":1,
"capabilities":{"add":["NET_ADMIN"]}}}],
"initContainers":[{"name":"i","image":"x"}],"volumes":[{"name":"e","emptyDir":{"sizeLimit":"1Mi"}},
{"name":"p","projected":{"sources":[{"configMap":{"name":"x","items":[{"key":"a","path":"b"}]}},
{"downwardAPI":{"items":[{"path":"l","fieldRef":{"fieldPath":"metadata.labels"}}]}}]}}],
"tolerations":[{"key":"k","operator":"Exists","effect":"NoSchedule"}],"nodeSelector":{"none":"here"},
"affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{
"nodeSelectorTerms":[{"matchExpressions":[{"key":"k","operator":"In","values":["v"]}]}]}},
"podAntiAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[{"weight":1,"podAffinityTerm":{"topologyKey":"t",
"labelSelector":{"matchLabels":{"a":"b"}}}}]}},
"topologySpreadConstraints":[{"maxSkew":1,"topologyKey":"t","whenUnsatisfiable":"ScheduleAnyway",
"labelSelector":{"matchLabels":{"a":"b"}}}],
"hostAliases":[{"ip":"10.0.0.1","hostnames":["h"]}],"imagePullSecrets":[{"name":"s"}],
"dnsConfig":{"nameservers":["10.0.0.1"],"options":[{"name":"o","value":"v"}]}}}`

// spec is the spec of template.
var spec = template[len(`{"metadata":{"labels":{"a":"b"}},"spec":`) : len(template)-1]

const selector = `"selector":{"matchLabels":{"a":"b"}}`

// seeds are sound bodies to begin from, by kind: what an object has besides apiVersion, kind and metadata.
var seeds = map[string]string{
	"Binding":            `{"target":{"kind":"Node","name":"n"}}`,
	"ConfigMap":          `{"data":{"a":"b","c":"d"},"binaryData":{"e":"AAAA"}}`,
	"ControllerRevision": `{"data":{"spec":{"a":1}},"revision":1}`,
	"DaemonSet": `{"spec":{` + selector + `,"updateStrategy":{"type":"RollingUpdate",
"rollingUpdate":{"maxUnavailable":1}},"template":` + template + `}}`,
	"Deployment": `{"spec":{"replicas":0,` + selector + `,"strategy":{"type":"RollingUpdate",
"rollingUpdate":{"maxSurge":"25%","maxUnavailable":1}},"template":` + template + `}}`,
	"Endpoints": `{"subsets":[{"addresses":[{"ip":"10.9.9.9","targetRef":{"kind":"Pod","name":"p"}}],
"ports":[{"port":80,"name":"a"}]}]}`,
	"EndpointSlice": `{"addressType":"IPv4","endpoints":[{"addresses":["10.9.9.9"],"conditions":{"ready":true}}],
"ports":[{"name":"a","port":80,"protocol":"TCP"}]}`,
	"Event": `{"involvedObject":{"kind":"Pod","name":"x","namespace":"fuzz"},"reason":"r","message":"m",
"type":"Normal","source":{"component":"c"}}`,
	"Lease": `{"spec":{"holderIdentity":"x","leaseDurationSeconds":5,
"renewTime":"2026-01-01T00:00:00.000000Z"}}`,
	"LimitRange": `{"spec":{"limits":[{"type":"PersistentVolumeClaim","max":{"storage":"1Gi"},
"min":{"storage":"1"}}]}}`,
	"Namespace": `{}`,
	"Node": `{"spec":{"taints":[{"key":"a","value":"b","effect":"NoSchedule"}]},
"status":{"conditions":[{"type":"Ready","status":"False"}],"addresses":[{"type":"Hostname","address":"n"}]}}`,
	"PersistentVolume": `{"spec":{"capacity":{"storage":"1Mi"},"accessModes":["ReadWriteOnce"],
"hostPath":{"path":"/nowhere"},"persistentVolumeReclaimPolicy":"Retain"}}`,
	"PersistentVolumeClaim": `{"spec":{"accessModes":["ReadWriteOnce"],"storageClassName":"shared",
"resources":{"requests":{"storage":"1Mi"}}}}`,
	"Pod":                   `{"spec":` + spec + `}`,
	"PodDisruptionBudget":   `{"spec":{"minAvailable":"50%",` + selector + `}}`,
	"PodTemplate":           `{"template":` + template + `}`,
	"PriorityClass":         `{"value":5,"description":"x"}`,
	"ReplicaSet":            `{"spec":{"replicas":0,` + selector + `,"template":` + template + `}}`,
	"ReplicationController": `{"spec":{"replicas":0,"selector":{"a":"b"},"template":` + template + `}}`,
	"ResourceQuota":         `{"spec":{"hard":{"count/secrets":"100000"}}}`,
	"RuntimeClass":          `{"handler":"h","overhead":{"podFixed":{"memory":"1Mi"}},"scheduling":{"nodeSelector":{"a":"b"},"tolerations":[{"key":"k","operator":"Exists"}]}}`,
	"Secret":                `{"type":"Opaque","data":{"a":"AAAA"},"stringData":{"b":"c"}}`,
	"Service": `{"spec":{"type":"ClusterIP","selector":{"a":"b"},"ports":[{"name":"a","port":80,
"targetPort":"http","protocol":"TCP"}],"externalIPs":["192.0.2.7"]}}`,
	"ServiceAccount": `{"secrets":[{"name":"x"}],"automountServiceAccountToken":true}`,
	"StatefulSet": `{"spec":{"replicas":0,"serviceName":"s",` + selector + `,"template":` + template +
		`,"volumeClaimTemplates":[{"metadata":{"name":"d"},"spec":{"accessModes":["ReadWriteOnce"],
"resources":{"requests":{"storage":"1Mi"}}}}]}}`,
	"StorageClass": `{"provisioner":"a.b/c","parameters":{"a":"b"},
"allowedTopologies":[{"matchLabelExpressions":[{"key":"a","values":["b"]}]}]}`,

	"Eviction":     `{"deleteOptions":{"gracePeriodSeconds":1}}`,
	"Scale":        `{"spec":{"replicas":0}}`,
	"TokenRequest": `{"spec":{"audiences":["a"],"expirationSeconds":600}}`,

	"SelfSubjectAccessReview": `{"spec":{"resourceAttributes":{"verb":"get","resource":"pods"}}}`,
	"SelfSubjectReview":       `{}`,
	"SelfSubjectRulesReview":  `{"spec":{"namespace":"fuzz"}}`,
	"SubjectAccessReview": `{"spec":{"user":"x","groups":["g"],"extra":{"e":["f"]},"resourceAttributes":{"verb":"get",
"resource":"pods"}}}`,
	"LocalSubjectAccessReview": `{"spec":{"user":"x","resourceAttributes":{"namespace":"fuzz","verb":"get",
"resource":"pods"}}}`,
	"TokenReview": `{"spec":{"token":"x","audiences":["a"]}}`,
}
