// Package export_carillon_plugin_describe says what the plugin is.
package export_carillon_plugin_describe

import (
	_ "embed"

	describe "wit_component/carillon_plugin_describe"
)

//go:embed config.schema.json
var configSchema string

// Get is called once, at upload.
func Get() describe.Info {
	return describe.Info{
		Name:         "go-template",
		Version:      "1.0.0",
		Summary:      "A text with the recipient's values in it.",
		ConfigSchema: configSchema,
	}
}
