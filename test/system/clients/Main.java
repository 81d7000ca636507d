// One user's day with the client that openapi-generator makes for Java.
import com.fasterxml.jackson.databind.ObjectMapper;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import org.openapitools.client.ApiClient;
import org.openapitools.client.ApiException;
import org.openapitools.client.api.KeysApi;
import org.openapitools.client.api.KeysApi.APIListKeysRequest;
import org.openapitools.client.api.SessionsApi;
import org.openapitools.client.api.UsersApi;
import org.openapitools.client.api.UsersApi.APIListUsersRequest;
import org.openapitools.client.model.CreateUserBody;
import org.openapitools.client.model.CreatedUser;
import org.openapitools.client.model.LogInBody;
import org.openapitools.client.model.RotateKeyBody;
import org.openapitools.client.model.UpdateUserBody;
import org.openapitools.client.model.User;

class Main {
  static final String PASSWORD = "correct horse battery staple";

  interface Call {
    Object run() throws ApiException;
  }

  static ApiClient holding(String key) {
    ApiClient client = new ApiClient();
    client.updateBaseUri(System.getenv("BASE"));
    client.setRequestInterceptor(request -> {
      if (key != null) request.header("X-Api-Key", key);
    });
    return client;
  }

  static List<Object> codeOf(Call call) throws Exception {
    try {
      return List.of(call.run());
    } catch (ApiException error) {
      Map<?, ?> failure = new ObjectMapper().readValue(error.getResponseBody(), Map.class);
      return List.of(error.getCode(), failure.get("code"));
    }
  }

  public static void main(String[] arguments) throws Exception {
    String email = System.getenv("EMAIL");
    String other = "x" + email;
    CreatedUser made = new UsersApi(holding(null))
      .createUser(new CreateUserBody().email(email).password(PASSWORD)).getDetails();
    String key = made.getApiKeys().get(0);
    String id = made.getId().toString();
    UsersApi own = new UsersApi(holding(key));
    UsersApi admin = new UsersApi(holding(System.getenv("ADMIN_KEY")));
    KeysApi keys = new KeysApi(holding(key));

    var read = own.getUser(id, null).getDetails();
    var allowed = admin
      .updateUser(id, new UpdateUserBody().permissions(Set.of("orders:read")), "\"1\"");
    var renamed = own.updateUser(id, new UpdateUserBody().email(other), "\"2\"").getDetails();
    var listed = admin.listUsers(
      APIListUsersRequest.newBuilder().email(other).view("full").build()).getDetails();
    SessionsApi sessions = new SessionsApi(holding(null));
    var session = sessions.logIn(new LogInBody().email(other).password(PASSWORD)).getDetails();
    var step = sessions.logIn(
      new LogInBody().email(System.getenv("PROTECTED")).password(PASSWORD)).getDetails();
    var protectedSession = sessions.logIn(
      new LogInBody().token(step.getToken()).code(System.getenv("CODE"))).getDetails();
    var first = keys.listKeys(APIListKeysRequest.newBuilder().id("me").build()).getDetails().get(0);
    var rotated = keys
      .rotateKey("me", first.getId(), new RotateKeyBody().overlapSeconds(60)).getDetails();

    Map<String, Object> day = new LinkedHashMap<>();
    day.put("read", read.getEmail());
    day.put("allowed", allowed.getDetails().getPermissions());
    day.put("renamed", List.of(renamed.getEmail(), renamed.getPermissions(), renamed.getVersion()));
    day.put("listed", listed.stream()
      .map(each -> ((User) each.getActualInstance()).getEmail()).toList());
    day.put("session", List.of(
      session.getUser().equals(made.getId()), session.getKey().substring(0, 4)));
    day.put("twoSteps", List.of(step.getKey() == null, step.getToken().substring(0, 4),
      protectedSession.getKey().substring(0, 4), protectedSession.getToken() == null));
    day.put("rotated", List.of(
      rotated.getName(), !rotated.getKey().equals(key), rotated.getKey().substring(0, 4)));
    UsersApi wrong = new UsersApi(holding("usk_wrong"));
    day.put("refused", codeOf(() -> wrong.getUser(id, null)));
    day.put("missing", codeOf(() -> admin.getUser(UUID.randomUUID().toString(), null)));
    day.put("faulty", codeOf(() -> admin
      .createUser(new CreateUserBody().email(email).password("password1"))));
    System.out.println(new ObjectMapper().writeValueAsString(day));
  }
}
