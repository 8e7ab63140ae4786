package client

import "context"

type managerKey struct{}

// WithManager names the field manager (managedFields) of the writes made under ctx, such as
// "deployment-controller".
func WithManager(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, managerKey{}, name)
}

// ManagerFrom returns the field manager of ctx, or fallback.
func ManagerFrom(ctx context.Context, fallback string) string {
	if name, ok := ctx.Value(managerKey{}).(string); ok {
		return name
	}
	return fallback
}
