// Package export_carillon_plugin_describe says what the plugin is.
package export_carillon_plugin_describe

import (
	_ "embed"

	"go.bytecodealliance.org/pkg/wit/types"
	describe "wit_component/carillon_plugin_describe"
)

//go:embed config.schema.json
var configSchema string

// A device's own settings.
//
//go:embed adapter.schema.json
var adapterSchema string

// Get is called once, at upload.
func Get() describe.Info {
	return describe.Info{
		Name:          "go-sender",
		Version:       "1.0.0",
		Summary:       "Posts each message as JSON to an HTTP API.",
		ConfigSchema:  configSchema,
		AdapterSchema: adapterSchema,
		// No hosts: the configuration decides.
		Secrets: []string{"API_KEY"},
		// True of an API that heeds Idempotency-Key: what is posted twice is sent once.
		Capabilities: []types.Tuple2[string, string]{{F0: "provider-deduplicates", F1: "true"}},
	}
}
