//go:build tools

// Package tools names the commands this module builds but does not import, so that `go mod tidy` keeps them.
package tools

import (
	_ "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router"
	_ "github.com/coredns/coredns"
	_ "github.com/kserve/kserve/cmd/manager"
)
